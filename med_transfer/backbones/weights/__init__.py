"""Where weights come from, how they are read safely, and how their names are matched to those of a network."""
