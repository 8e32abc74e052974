"""Lesions painted into crops of real scans: labels without a radiologist."""
