"""A model process: one model, its task, its engine and its life."""
