"""One HTML page about a finished file, or about all results of a batch."""
