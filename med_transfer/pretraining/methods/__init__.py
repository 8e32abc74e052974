"""Ways to learn from source scans, one a file."""
