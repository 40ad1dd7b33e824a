"""Small changes to the code and to the presets, tried on the tests that pass over them."""
