"""Lesions painted into crops of real scans, which gives labels without a radiologist."""
