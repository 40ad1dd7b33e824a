"""Places where tests set something: a file, whose settings are only a wish where they have no effect."""

from ltx2_core.pipeline.resolve.settings import Origin, Place

A_FILE = Place(Origin.FILE, "ltx2.yaml")
