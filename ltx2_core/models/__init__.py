"""Networks and their maths. Nothing here reads files, chooses devices or knows about prompts."""
