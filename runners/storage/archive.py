"""Unpack a model's archive safely.

An archive may come from anywhere, so links, paths outside the folder and unpacked data over a limit are refused.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from hf_runtime.contract.errors import LoadError
from runners.storage.disk import count_free_bytes, format_size, is_disk_full, make_no_space_error

#: Limit of files and folders in one archive.
MAX_MEMBERS = 100_000
#: Limit of unpacked to packed size, because weights hardly compress. JSON compresses well, so up to MIN_LIMIT bytes
#: any ratio is allowed.
MAX_RATIO = 50
MIN_LIMIT = 2**30

_CHUNK = 2**20


def is_archive(path: Path) -> bool:
    """Return True if the content is a zip or tar archive, compressed or not."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False


def unpack(archive: Path, folder: Path, shown: str) -> Path:
    """Unpack an archive and return the model's folder: `folder`, or the only folder in it.

    Args:
        folder: must not exist yet.
        shown: name of the archive in messages.

    Raises:
        LoadError: the archive is broken, encrypted or too large, or the named member may not be unpacked.
    """
    budget = _ByteBudget(folder, archive.stat().st_size, shown)
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder, budget, shown)
        else:
            _untar(archive, folder, budget, shown)
    except LoadError:
        raise
    except OSError as error:
        if is_disk_full(error):
            raise make_no_space_error(folder, f"what {shown} holds") from None
        raise _make_broken_error(shown) from None
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError
    ):  # fmt: skip
        raise _make_broken_error(shown) from None
    return _find_model_folder(folder)


class _ByteBudget:
    """Number of bytes that may still be written."""

    def __init__(self, folder: Path, packed: int, shown: str) -> None:
        free, limit = count_free_bytes(folder), max(MIN_LIMIT, MAX_RATIO * packed)
        self._left = min(free, limit)
        if free <= limit:
            self._error = make_no_space_error(folder, f"what {shown} holds")
        else:
            self._error = LoadError(f"{shown} grows to more than {format_size(limit)} when unpacked; it is no model.")

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self._error


def _unzip(path: Path, folder: Path, budget: _ByteBudget, shown: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_member_count(len(members), shown)
        for member in members:
            target = _resolve_target(folder, member.filename, shown)
            if member.flag_bits & 1:
                raise LoadError(f"{shown} is encrypted ({member.filename}); give an archive without a password.")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _make_member_error(shown, member.filename, "is a link or a device")
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as content, target.open("wb") as out:
                # Count the real bytes, because the size in the header may be wrong.
                while chunk := content.read(_CHUNK):
                    budget.spend(len(chunk))
                    out.write(chunk)


def _untar(path: Path, folder: Path, budget: _ByteBudget, shown: str) -> None:
    with tarfile.open(path) as archive:
        for number, member in enumerate(_iterate_members(archive), start=1):
            _check_member_count(number, shown)
            target = _resolve_target(folder, member.name, shown)
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _make_member_error(shown, member.name, "is a link or a device")
            # The size in the header is exact: tarfile raises an error if fewer bytes follow.
            budget.spend(member.size)
            if target != folder:
                archive.extract(member, folder, filter="data")


def _iterate_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    # One by one, because a list of all members needs a pass over the whole compressed archive.
    while (member := archive.next()) is not None:
        yield member


def _resolve_target(folder: Path, name: str, shown: str) -> Path:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise _make_member_error(shown, name, "lies outside the model's folder")
    return folder / posix


def _find_model_folder(folder: Path) -> Path:
    for junk in (folder / "__MACOSX", *folder.rglob("._*")):
        if junk.is_dir():
            shutil.rmtree(junk)
        else:
            junk.unlink(missing_ok=True)
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _check_member_count(count: int, shown: str) -> None:
    if count > MAX_MEMBERS:
        raise LoadError(f"{shown} holds more than {MAX_MEMBERS:,} files; it is no model.")


def _make_member_error(shown: str, member: str, why: str) -> LoadError:
    return LoadError(f"{shown} is not unpacked: {member!r} {why}; give an archive of plain files and folders.")


def _make_broken_error(shown: str) -> LoadError:
    return LoadError(f"{shown} is no zip or tar archive that can be read, and no GGUF file: fetch or pack it again.")
