"""The version of the server, as it tells it to clients; pyproject.toml reads it here."""

__version__ = "0.1.0"
