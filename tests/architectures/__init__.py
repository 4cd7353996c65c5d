"""Comparison of every architecture of the seven tasks, at small size, with transformers."""
