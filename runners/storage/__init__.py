"""Storage URI to a local folder: hub, object stores, web, archives and the cache of copies."""
