"""Command lines for operators; the server imports none of them."""
