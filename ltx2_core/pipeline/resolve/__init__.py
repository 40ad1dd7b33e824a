"""From the user's input to one resolved record: every value, every file, every refusal. Imports no torch."""
