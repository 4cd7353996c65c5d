"""Writes text token by token: many sequences at once, each as if it were alone."""
