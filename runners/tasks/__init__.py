"""The tasks, one module each: preprocess, compute rows, postprocess."""
