"""Mutation tests: small changes to the code and to the presets, which the tests that run over them should notice."""
