"""Tests of the Bento of `bentoml build` and of the image that `bentoml containerize` builds."""
