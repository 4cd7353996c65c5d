"""Command that writes the reference tables of docs/ from the code.

Usage: `python -m commands.write_reference [--check]`. Tables are between markers in the pages.
"""
