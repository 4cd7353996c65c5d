"""Values of variables that an InferenceService reads from a Secret or a ConfigMap."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from hf_runtime.settings.errors import SettingsError, validate_settings
from hf_runtime.settings.inference_service import KeyRef, Metadata, ValueFrom
from hf_runtime.settings.yaml_documents import Document


class _KeyValues(BaseModel):
    """Secret or ConfigMap among the configured documents."""

    kind: Literal["Secret", "ConfigMap"]
    metadata: Metadata
    data: dict[str, str] = {}
    stringData: dict[str, str] = {}


class References:
    """Resolver of Secret and ConfigMap references.

    It looks in mounted files first, then in the configured documents, then in the environment.

    Args:
        folder: where Secrets and ConfigMaps are mounted: one folder for each, with one file per key.
        documents: all configured documents; only Secrets and ConfigMaps are used.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], documents: Sequence[Document]) -> None:
        self._folder = folder
        self._environment = environment
        self._values: dict[tuple[str, str], dict[str, str]] = {}
        for document in documents:
            if isinstance(document.content, dict) and document.content.get("kind") in ("Secret", "ConfigMap"):
                self._add_document(document)

    def _add_document(self, document: Document) -> None:
        values = validate_settings(lambda: _KeyValues.model_validate(document.content), document.position)
        data = values.data
        if values.kind == "Secret":
            data = {key: _decode_base64(key, value, document) for key, value in data.items()} | values.stringData
        self._values[values.kind, values.metadata.name] = data

    def value(self, variable: str, source: ValueFrom) -> str | None:
        """Return the value of `variable`, or None if an optional one is not found.

        Raises:
            ValueError: it is not found; the message says where to set it.
        """
        kind, reference = ("Secret", source.secret) if source.secret else ("ConfigMap", source.config_map)
        assert reference is not None, "this is a bug: the validator lets exactly one pass"
        file = self._mounted_file(reference)
        if file is not None and file.is_file():
            return file.read_text(encoding="utf-8").rstrip("\n")
        value = self._values.get((kind, reference.name), {}).get(reference.key, self._environment.get(variable))
        if value is None and not reference.optional:
            raise ValueError(
                f"{variable}: {kind} {reference.name} has no key {reference.key} here; set {variable} in the "
                f"environment, or mount it as {self._folder / reference.name / reference.key}"
            )
        return value

    def _mounted_file(self, reference: KeyRef) -> Path | None:
        parts = (reference.name, reference.key)
        return None if any("/" in part or part in ("", ".", "..") for part in parts) else self._folder.joinpath(*parts)


def _decode_base64(key: str, value: Any, document: Document) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise SettingsError(f"{document.position(('data', key))}data.{key}: must be base64 of text in UTF-8") from None
