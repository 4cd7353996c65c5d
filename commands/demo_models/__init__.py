"""Training of the small demo models: one module per task, on sentences made from templates."""
