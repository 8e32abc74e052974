"""How well features suit a task, and how far two domains lie apart, one measure a file."""
