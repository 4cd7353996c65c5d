"""How commands/train_demo_models.py trains small models: one module a task, on sentences made from templates."""
