"""Promises of the Bento that `bentoml build` makes, and of the image that `bentoml containerize` makes of it."""
