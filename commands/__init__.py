"""Command-line tools for operators; the server does not import them."""
