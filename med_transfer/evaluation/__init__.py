"""The evaluating job: predictions of scans with known labels, their metrics and their report."""
