"""Reads regions of interest: mask files, DICOM SEG, RTSTRUCT."""
