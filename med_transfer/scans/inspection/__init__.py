"""Shows the content of a scan as an HTML page with pictures."""
