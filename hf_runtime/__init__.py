"""What every process of the server shares: protocols, settings, logs and the wire between processes; no torch."""
