"""`python -m ltx2_cli` is the command `ltx2`."""

from .app import main

main()
