"""Resamples a scan from its grid to the network's in one step."""
