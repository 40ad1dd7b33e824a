"""The version of this program, defined once: for the package, the command and every finished file."""

__version__ = "0.1.0"
