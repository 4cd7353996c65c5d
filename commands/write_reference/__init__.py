"""Reference tables of docs/, written from the code between markers: `python -m commands.write_reference [--check]`."""
