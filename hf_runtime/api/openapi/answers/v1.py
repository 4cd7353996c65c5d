"""Answers of KServe V1, and the error that V1 and V2 share."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
class Alive(TypedDict):
    """The server takes requests."""

    status: Literal["alive"]


@with_config(_STRICT)
class ModelNames(TypedDict):
    """All models, ready or not."""

    models: list[str]


@with_config(_STRICT)
class ModelReady(TypedDict):
    """A model that can answer."""

    name: str
    ready: Literal[True]


@with_config(_STRICT)
class Error(TypedDict):
    """What is wrong, in one sentence that names the field."""

    error: str
