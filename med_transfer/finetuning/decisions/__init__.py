"""How probabilities become decisions: the operating point chosen on validation scans, and locked before the test."""
