"""What is in a scan, as a page with pictures."""
