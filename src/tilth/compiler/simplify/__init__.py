"""Rewrites that make a graph smaller or plainer and keep its meaning, as tables of rules."""
