"""Golden tensors: one module per family of folders, each comparing our code with what the official code computed."""
