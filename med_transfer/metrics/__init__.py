"""How good is it, on whom, and how sure are we: statistics, and the records that they fill (``records/``)."""
