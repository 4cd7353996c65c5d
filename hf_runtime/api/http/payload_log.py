"""What clients send and get, in the log of a server that was asked to show it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import orjson

logger = logging.getLogger(__name__)

#: Characters of a line; the rest is counted.
_MAX_LENGTH = 4000


def log_payload(what: str, model: str, value: Any) -> None:
    """Write a payload as JSON, cut to a sensible length.

    Args:
        what: it is: `instances`, `answers` ….
    """
    try:
        text = orjson.dumps(value, default=repr, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError as error:  # such as what is nested more deeply than is written, though it was read
        text = f"not shown: {error}"
    more = len(text) - _MAX_LENGTH
    shown = f"{text[:_MAX_LENGTH]}… and {more} characters" if more > 0 else text
    logger.info("%s: %s", what, shown, extra={"model": model})


def log_items(model: str, items: Iterable[tuple[Any, dict[str, Any]]]) -> list[tuple[Any, dict[str, Any]]]:
    """Write instances, each with its parameters; the same items, for use."""
    items = list(items)
    log_payload("items", model, [{"instance": instance, "parameters": parameters} for instance, parameters in items])
    return items
