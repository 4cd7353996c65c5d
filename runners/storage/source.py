"""Protocol of a remote source of models, as runners/storage/storage_cache.py uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_runtime.contract.errors import LoadError


class UnreachableError(LoadError):
    """Temporary failure to reach the source; the message is one sentence.

    A copy in the cache may be used instead, and a later retry may succeed.
    """


class InterruptedReadError(Exception):
    """Download of a file that ended early; the rest can be requested."""


class ChangedError(Exception):
    """File that changed since it was listed."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """File in the list of a source.

    Attributes:
        path: from the model's folder, with forward slashes.
        size: bytes; None if unknown.
        version: value that changes with the content, such as an ETag; None if unknown.
        digest: algorithm as in hashlib, and hexadecimal digits; None if unknown.
        digest_is_certain: False for an ETag that looks like an MD5, because it is none for an encrypted object.
    """

    path: str
    size: int | None
    version: str | None = None
    digest: tuple[str, str] | None = None
    digest_is_certain: bool = True


class ModelSource(Protocol):
    """Remote source of the files of one model.

    Attributes:
        identity: unique name of the source; it may contain secrets, so only its hash is stored.
        shown: name of the source in messages and logs, without secrets.
    """

    @property
    def identity(self) -> str: ...

    @property
    def shown(self) -> str: ...

    @property
    def is_folder(self) -> bool:
        """True if the URI looks like that of a folder, not of an archive or GGUF file.

        The source itself is not asked.
        """

    def list(self) -> Sequence[SourceFile]:
        """List all files of the model's folder.

        Raises:
            UnreachableError: the source does not answer.
            LoadError: the source refuses, or its answer is no list.
        """

    def is_single(self, files: Sequence[SourceFile]) -> bool:
        """Return True if the listed files are one archive or GGUF file instead of a folder."""

    def read(self, file: SourceFile, start: int) -> tuple[int, Iterator[bytes]]:
        """Read a file from an offset in bytes.

        Returns:
            The offset of the first chunk, which is 0 if the source cannot start at `start`, and the chunks.

        Raises:
            InterruptedReadError: the answer ended early, also while it is iterated.
            ChangedError: the file has another version.
            UnreachableError: the source does not answer.
            LoadError: the source refuses.
        """

    def read_small(self, path: str) -> bytes | None:
        """Read a small file by its path in the model's folder; None if it does not exist.

        Raises:
            LoadError: as `list`.
        """
