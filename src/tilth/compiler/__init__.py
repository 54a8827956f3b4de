"""Passes that every target shares, in one visible ordered list: see `pipeline`."""
