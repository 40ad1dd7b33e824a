"""The version of this program, said once: the package, the command and every finished file read it here."""

__version__ = "0.1.0"
