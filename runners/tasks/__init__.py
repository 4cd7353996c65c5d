"""Tasks, one module each: prepare an instance, compute its rows, finish the answer."""
