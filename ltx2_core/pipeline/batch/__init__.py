"""Many renders: jobs are read and resolved without torch, and rendered by workers that load a model once."""
