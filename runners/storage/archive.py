"""Unpack a model's archive that nobody has looked into: no links, nothing outside its folder, no more than fits."""

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
from runners.storage.disk import free_bytes, is_full, no_space, shown_size

#: Files and folders in one archive.
MAX_MEMBERS = 100_000
#: Weights hardly shrink: an archive that grows more than this is no model. Small ones may, for JSON shrinks well.
MAX_RATIO = 50
MIN_LIMIT = 2**30

_CHUNK = 2**20


def is_archive(path: Path) -> bool:
    """Whether the content is a zip or tar archive, compressed or not."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False


def unpack(archive: Path, folder: Path, shown: str) -> Path:
    """Unpack into a folder that does not exist yet, and return where the model is: the only folder in it, or itself.

    Args:
        shown: what the archive is called in messages.

    Raises:
        LoadError: broken, encrypted, too large, or with a member that may not be unpacked, which is named.
    """
    room = _Room(folder, archive.stat().st_size, shown)
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder, room, shown)
        else:
            _untar(archive, folder, room, shown)
    except LoadError:
        raise
    except OSError as error:
        if is_full(error):
            raise no_space(folder, f"what {shown} holds") from None
        raise _broken(shown) from None
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError
    ):  # fmt: skip
        raise _broken(shown) from None
    return _top(folder)


class _Room:
    """How many bytes may still be written."""

    def __init__(self, folder: Path, packed: int, shown: str) -> None:
        free, most = free_bytes(folder), max(MIN_LIMIT, MAX_RATIO * packed)
        self._left = min(free, most)
        if free <= most:
            self._error = no_space(folder, f"what {shown} holds")
        else:
            self._error = LoadError(f"{shown} grows to more than {shown_size(most)} when unpacked; it is no model.")

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self._error


def _unzip(path: Path, folder: Path, room: _Room, shown: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_number(len(members), shown)
        for member in members:
            target = _target(folder, member.filename, shown)
            if member.flag_bits & 1:
                raise LoadError(f"{shown} is encrypted ({member.filename}); give an archive without a password.")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(shown, member.filename, "is a link or a device")
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as content, target.open("wb") as out:
                # Counted as it comes: what the header says may be wrong.
                while chunk := content.read(_CHUNK):
                    room.take(len(chunk))
                    out.write(chunk)


def _untar(path: Path, folder: Path, room: _Room, shown: str) -> None:
    with tarfile.open(path) as archive:
        for number, member in enumerate(_members(archive), start=1):
            _check_number(number, shown)
            target = _target(folder, member.name, shown)
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _refused(shown, member.name, "is a link or a device")
            # Exactly so many bytes are written: tarfile ends with an error where fewer come.
            room.take(member.size)
            if target != folder:
                archive.extract(member, folder, filter="data")


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    # One after the other, instead of a list that is made by reading all of a compressed archive first.
    while (member := archive.next()) is not None:
        yield member


def _target(folder: Path, name: str, shown: str) -> Path:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise _refused(shown, name, "lies outside the model's folder")
    return folder / posix


def _top(folder: Path) -> Path:
    for junk in (folder / "__MACOSX", *folder.rglob("._*")):
        if junk.is_dir():
            shutil.rmtree(junk)
        else:
            junk.unlink(missing_ok=True)
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _check_number(number: int, shown: str) -> None:
    if number > MAX_MEMBERS:
        raise LoadError(f"{shown} holds more than {MAX_MEMBERS:,} files; it is no model.")


def _refused(shown: str, member: str, why: str) -> LoadError:
    return LoadError(f"{shown} is not unpacked: {member!r} {why}; give an archive of plain files and folders.")


def _broken(shown: str) -> LoadError:
    return LoadError(f"{shown} is no zip or tar archive that can be read, and no GGUF file: fetch or pack it again.")
