"""Origins of settings in tests: a file. Settings in files are ignored instead of refused if they have no effect."""

from ltx2_core.pipeline.resolve.settings import Origin, Place

A_FILE = Place(Origin.FILE, "ltx2.yaml")
