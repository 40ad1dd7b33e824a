"""Model shapes, read from the metadata that every official file carries. Frozen records and arithmetic; no torch."""
