"""Decorator for the types of answers."""

from __future__ import annotations

from pydantic import ConfigDict, with_config

#: Marks a TypedDict as an answer: its schema in the OpenAPI document allows no other fields.
answer_type = with_config(ConfigDict(extra="forbid", protected_namespaces=()))
