"""From what a person asked for to one settled record: every value, every file, every refusal. Imports no torch."""
