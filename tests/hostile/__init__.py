"""Hostile input: seeded generators of odd command lines and files, and a runner that gives them to the real app."""
