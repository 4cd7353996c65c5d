"""What is measured, not tested: each module is one command of the Makefile."""
