"""Render a finished file again from its recipe. Imports no torch."""
