"""Levels of this project's loggers; BentoML sets up where lines go and how they look."""

from __future__ import annotations

import logging

_ROOMS = ("batching", "generation", "loading", "protocols", "runners", "service", "transport")


def configure_logging(level: str) -> None:
    """Let this project's rooms log from `level` on."""
    for room in _ROOMS:
        logging.getLogger(room).setLevel(level.upper())
