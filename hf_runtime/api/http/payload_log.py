"""Log lines with requests and answers, for servers that log payloads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import orjson

logger = logging.getLogger(__name__)

#: Characters of a line; the line ends with the number of the others.
_MAX_LENGTH = 4000


def log_payload(name: str, model: str, value: Any) -> None:
    """Log a payload as JSON, cut after 4000 characters.

    Args:
        name: of the payload, such as `answers`.
    """
    try:
        text = orjson.dumps(value, default=repr, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError as error:  # orjson reads deeper nesting than it writes
        text = f"not shown: {error}"
    more = len(text) - _MAX_LENGTH
    shown = f"{text[:_MAX_LENGTH]}… and {more} characters" if more > 0 else text
    logger.info("%s: %s", name, shown, extra={"model": model})


def log_items(model: str, items: Iterable[tuple[Any, dict[str, Any]]]) -> list[tuple[Any, dict[str, Any]]]:
    """Log items, which are instances with their parameters, and return them as a list."""
    items = list(items)
    log_payload("items", model, [{"instance": instance, "parameters": parameters} for instance, parameters in items])
    return items
