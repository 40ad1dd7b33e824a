"""The cost of models on a device, from headers and configs alone: bytes of weights and activations, and FLOPs.

The render counts its weights with these functions too. Nothing here imports torch.
"""
