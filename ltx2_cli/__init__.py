"""The command `ltx2`: it parses the command line, calls ltx2_core, and shows the result."""
