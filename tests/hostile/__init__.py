"""Hostile input: seeded generators of unusual command lines and files, and a runner that passes them to the real
app.
"""
