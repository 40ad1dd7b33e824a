"""A finished file, rendered again from the recipe that it holds. Imports no torch."""
