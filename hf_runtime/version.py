"""Version of the server, as reported to clients; pyproject.toml reads it from here."""

__version__ = "0.1.0"
