"""Images, video and audio as files. Nothing else in this package opens any."""
