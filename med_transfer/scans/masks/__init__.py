"""Regions drawn by others: masks, DICOM SEG, RTSTRUCT."""
