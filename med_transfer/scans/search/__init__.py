"""Finding series in a folder tree, and telling them apart."""
