"""Engines: they decide which rows are computed when, and which together."""
