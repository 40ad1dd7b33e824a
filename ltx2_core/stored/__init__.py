"""Which layers of a weight file are stored quantised, and how, from names, dtypes and markers only."""
