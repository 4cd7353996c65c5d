"""Code of all processes: protocols, settings, logs and messages between processes.

It imports no torch.
"""
