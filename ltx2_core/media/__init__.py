"""Images, video and audio as files. No other package opens any."""
