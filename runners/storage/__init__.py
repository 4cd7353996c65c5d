"""Fetch a model from its storage URI into a local folder."""
