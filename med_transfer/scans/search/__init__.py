"""Finds series in a folder tree."""
