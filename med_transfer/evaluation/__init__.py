"""Evaluation of labelled scans: predictions, metrics and report."""
