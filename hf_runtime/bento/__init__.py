"""Adapters for BentoML and uvicorn."""
