"""Statistics of performance with confidence intervals, and the records that they fill (``records/``)."""
