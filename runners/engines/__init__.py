"""Engines, which schedule rows and batch them for a runner."""
