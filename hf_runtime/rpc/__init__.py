"""Protocol between the entry service and a runner.

Each pair of processes shares one WebSocket, which carries many items in parallel.
"""

#: Path at which a runner service accepts connections from entry services.
ITEMS_PATH = "/items"
