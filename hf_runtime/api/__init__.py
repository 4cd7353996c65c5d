"""Translation between HTTP and items, one module a protocol; nothing here knows a model or a task."""
