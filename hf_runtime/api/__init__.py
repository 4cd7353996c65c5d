"""Translation between HTTP and items, one module per protocol."""
