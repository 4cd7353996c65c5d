"""Every architecture that transformers maps for the seven tasks, small, beside plain transformers."""
