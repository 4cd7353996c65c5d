"""Adaptive batching of rows of similar length within a token limit."""
