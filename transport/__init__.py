"""The wire between the entry service and a runner: one WebSocket for each pair of processes, many items on it."""
