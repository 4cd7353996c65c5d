"""Measurements, which are not tests; each module is one command of the Makefile."""
