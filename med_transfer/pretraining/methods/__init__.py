"""Pretraining methods, one per file."""
