"""Measures of transferability and of the distance between two domains, one per file."""
