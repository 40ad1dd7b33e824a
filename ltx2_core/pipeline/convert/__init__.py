"""`ltx2 convert`: from a checkpoint in bf16 to an int8 or fp8 file, tensor by tensor."""
