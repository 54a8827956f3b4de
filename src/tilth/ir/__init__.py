"""The IR: types, ops, graphs, and what checks, prints, rewrites and interprets them.

Imports nothing else of ours.
"""
