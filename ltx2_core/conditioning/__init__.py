"""Conditions: each is one way to steer a stream, and changes its state and nothing else."""
