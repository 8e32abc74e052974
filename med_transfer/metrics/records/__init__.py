"""Records in metrics.json and bundles: plain data that import no code that computes."""
