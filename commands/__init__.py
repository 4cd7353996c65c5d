"""Helpers for the command line; the server imports none of them."""
