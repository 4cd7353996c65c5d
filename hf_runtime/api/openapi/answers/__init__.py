"""What is answered, as types: nothing here runs, `schemas` writes them into the document."""
