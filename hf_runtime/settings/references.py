"""Values that an InferenceService takes from a Secret or a ConfigMap."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from hf_runtime.settings.errors import SettingsError, checked
from hf_runtime.settings.inference_service import KeyRef, Metadata, ValueFrom
from hf_runtime.settings.yaml_documents import Document


class _KeyValues(BaseModel):
    """A Secret or a ConfigMap of the same file."""

    kind: Literal["Secret", "ConfigMap"]
    metadata: Metadata
    data: dict[str, str] = {}
    stringData: dict[str, str] = {}


class References:
    """Looks a reference up: in a mounted file, in the documents beside it, in the environment.

    Args:
        folder: where Secrets and ConfigMaps are mounted, a folder each with a file a key.
        documents: those that are configured; of other kinds than Secret and ConfigMap, nothing is read.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], documents: Sequence[Document]) -> None:
        self._folder = folder
        self._environment = environment
        self._known: dict[tuple[str, str], dict[str, str]] = {}
        for document in documents:
            if isinstance(document.content, dict) and document.content.get("kind") in ("Secret", "ConfigMap"):
                self._remember(document)

    def _remember(self, document: Document) -> None:
        values = checked(lambda: _KeyValues.model_validate(document.content), document.place)
        data = values.data
        if values.kind == "Secret":
            data = {key: _decoded(key, value, document) for key, value in data.items()} | values.stringData
        self._known[values.kind, values.metadata.name] = data

    def value(self, variable: str, source: ValueFrom) -> str | None:
        """The value of `variable`; None if it is nowhere and optional.

        Raises:
            ValueError: it is nowhere; the message says where it was looked for.
        """
        kind, reference = ("Secret", source.secret) if source.secret else ("ConfigMap", source.config_map)
        assert reference is not None, "this is a bug: the validator lets exactly one pass"
        file = self._file(reference)
        if file is not None and file.is_file():
            return file.read_text(encoding="utf-8").rstrip("\n")
        value = self._known.get((kind, reference.name), {}).get(reference.key, self._environment.get(variable))
        if value is None and not reference.optional:
            raise ValueError(
                f"{variable}: {kind} {reference.name} has no key {reference.key} here; set {variable} in the "
                f"environment, or mount it as {self._folder / reference.name / reference.key}"
            )
        return value

    def _file(self, reference: KeyRef) -> Path | None:
        parts = (reference.name, reference.key)
        return None if any("/" in part or part in ("", ".", "..") for part in parts) else self._folder.joinpath(*parts)


def _decoded(key: str, value: Any, document: Document) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise SettingsError(f"{document.place(('data', key))}data.{key}: must be base64 of text in UTF-8") from None
