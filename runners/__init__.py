"""Model process: one model with its task, engine and lifecycle."""
