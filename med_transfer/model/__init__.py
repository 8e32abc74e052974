"""The network that is fine-tuned and what turns its output into a call: head, calibration, operating point."""
