"""What a place that holds models must be able to do, so that runners/storage/storage_cache.py can keep copies of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_runtime.contract.errors import LoadError


class UnreachableError(LoadError):
    """The source gave no answer, for a reason that may pass; the message is one sentence.

    A copy in the cache may make up for it, and asking again later may help.
    """


class InterruptedReadError(Exception):
    """A file was cut off in the middle; what is missing can be asked for."""


class ChangedError(Exception):
    """A file is no longer the one that was listed."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as the source lists it.

    Attributes:
        path: from the model's folder, with forward slashes.
        size: bytes; None if the source does not say.
        version: changes with the content, such as an ETag; None if the source does not say.
        digest: algorithm as in hashlib, and hexadecimal digits; None if the source does not say.
        digest_is_certain: False for an ETag that looks like an MD5, but is none if the object is encrypted.
    """

    path: str
    size: int | None
    version: str | None = None
    digest: tuple[str, str] | None = None
    digest_is_certain: bool = True


class ModelSource(Protocol):
    """A place with the files of one model.

    Attributes:
        identity: tells this source from all others; may hold secrets, so only its hash is kept.
        shown: the same for messages and logs, without secrets.
    """

    @property
    def identity(self) -> str: ...

    @property
    def shown(self) -> str: ...

    @property
    def is_folder(self) -> bool:
        """Whether the URI leads to a folder for all that can be seen without asking; a file is unpacked, or a GGUF."""

    def list(self) -> Sequence[SourceFile]:
        """All files of the model's folder.

        Raises:
            UnreachableError: no answer.
            LoadError: an answer that is no listing.
        """

    def is_single(self, files: Sequence[SourceFile]) -> bool:
        """Whether what was listed is one archive or GGUF file instead of a folder."""

    def read(self, file: SourceFile, start: int) -> tuple[int, Iterator[bytes]]:
        """The content from `start` (bytes) on, or from where the source can; the first item says where that is.

        Raises:
            InterruptedReadError: the answer ended too early, also while it is iterated.
            ChangedError: the file has another version.
            UnreachableError: no answer.
            LoadError: refused.
        """

    def read_small(self, path: str) -> bytes | None:
        """A small file by its path in the model's folder; None if there is none.

        Raises:
            LoadError: as `list`.
        """
