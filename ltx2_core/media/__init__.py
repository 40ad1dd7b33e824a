"""Images, video and sound as files. Nothing else in this package opens any."""
