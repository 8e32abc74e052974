"""The node as a performer: it claims work items of an external worklist, predicts their studies, and reports results.

Source: Unified Procedure Step, DICOM PS3.4 CC, by web (UPS-RS), PS3.18 11.
"""
