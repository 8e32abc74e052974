"""The node as a worker: it claims items of a worklist elsewhere, predicts their studies, and tells what it made.

Source: Unified Procedure Step, DICOM PS3.4 CC, by web (UPS-RS), PS3.18 11.
"""
