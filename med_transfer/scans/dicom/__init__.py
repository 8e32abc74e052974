"""DICOM: headers, pixels, which instances form a series, and whether its geometry can be trusted."""
