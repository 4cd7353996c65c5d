"""Calibration of batch size, workers and threads for a model on this machine.

Plans are measured when a model is loaded, and cached on disk.
"""
