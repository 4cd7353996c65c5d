"""Tests of the Bento that `bentoml build` makes, and of its image."""
