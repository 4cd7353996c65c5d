"""The wire between the entry service and a runner: one WebSocket for each pair of processes, many items on it."""

#: Where a runner service accepts connections of entry services.
ITEMS_PATH = "/items"
