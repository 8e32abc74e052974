"""The evaluation report: report.html with its tables as CSV and its figures as SVG, section by section.

CONTRIBUTING.md says how to add a section. ``med_transfer.report.writing`` writes it; it is apart because it loads
matplotlib.
"""
