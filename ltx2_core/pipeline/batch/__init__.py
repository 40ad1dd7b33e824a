"""Many renders: jobs are read and settled without torch, and rendered by workers that load a model once."""
