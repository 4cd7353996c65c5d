"""Adaptive batching beside the model: rows that wait are computed together, alike in length, within a token budget."""
