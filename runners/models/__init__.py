"""Load a model from a local folder onto its device."""
