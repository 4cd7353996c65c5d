"""What faster precisions of a model bring on this machine, and what they cost: `python -m commands.precisions`."""
