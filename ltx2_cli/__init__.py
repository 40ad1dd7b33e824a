"""The command `ltx2`: it reads what a person typed, calls ltx2_core, and shows the result."""
