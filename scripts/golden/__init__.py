"""Golden tensors: one module per family of folders, which compares our code with the results of the official code."""
