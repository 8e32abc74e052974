"""The network that is fine-tuned, and how its output becomes a decision: head, calibration, operating point."""
