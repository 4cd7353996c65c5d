"""Copies of models on this disk: each complete or not there, fetched once, and kept while their source is away.

A source has a folder of its own, and each state of its files a folder in that. A copy is made beside the others, under
a name that nobody reads, and renamed when it is whole; none that is in place is ever written to. A process has a lock
on each copy that it serves from (`runners/storage/copy_locks.py`); of the others, old ones are deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Event
from time import sleep
from typing import Any

from filelock import FileLock, Timeout

from hf_runtime.atomic_write import make_folder
from hf_runtime.contract.errors import LoadError
from runners.storage.archive import is_archive, unpack
from runners.storage.copy_locks import delete_unlocked_copy, lock_copy
from runners.storage.disk import check_space, is_disk_full, make_no_space_error
from runners.storage.progress import Progress
from runners.storage.source import ChangedError, InterruptedReadError, ModelSource, SourceFile, UnreachableError

logger = logging.getLogger(__name__)

#: Files that are downloaded at the same time.
_WORKERS = 4
#: A file that is cut off is continued, at most this often in a row with less than so many bytes (a MiB) to show for it.
_TRIES = 5
_PROGRESS = 2**20
#: Seconds before the second try; twice as long before each one after that.
_PAUSE = 0.5
#: Listings of a source whose files change under way.
_LISTINGS = 3

_MANIFEST = "manifest.json"
_PARTIAL = ".partial"

#: Which of the files that a source holds are wanted, by their paths.
Choice = Callable[[Iterable[str]], list[str]]


class StorageCache:
    """The copies of one source.

    Args:
        root: folder of all copies.
        choose: which files are wanted; not asked for a source that is one archive.
        old_copies: that are kept beside the one of now, and those that other processes serve from.
    """

    def __init__(self, root: Path, source: ModelSource, choose: Choice, old_copies: int = 1) -> None:
        self._source = source
        self._choose = choose
        self._old_copies = old_copies
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", source.shown.replace("://", "-"))[-60:].strip("-.")
        self._folder = root.expanduser() / f"{name}-{_hash(source.identity)[:16]}"

    def fetch(self) -> Path:
        """The folder of a complete copy: of the files as they are now, or the newest there is if nobody can say.

        Raises:
            LoadError: no access, nothing there, no room, cut off again and again, or away and nothing cached.
        """
        try:
            return self._fetch()
        except UnreachableError as error:
            known = self.find_latest()
            if known is None:
                raise
            logger.warning("%s The copy in the cache is served.", error)
            return known
        except OSError as error:
            if is_disk_full(error):
                raise make_no_space_error(self._folder, self._source.shown) from None
            raise LoadError(
                f"STORAGE_CACHE: {self._folder} cannot be used ({error.strerror}): choose a folder that may be written."
            ) from None

    def find_latest(self) -> Path | None:
        """The copy that was last used, of those that have what is wanted; None if there is none. Asks nobody."""
        for snapshot in sorted(self._snapshots(), key=lambda each: each.used, reverse=True):
            wanted = snapshot.single or set(self._choose(snapshot.listed)) <= set(snapshot.sizes)
            if snapshot.whole and wanted and lock_copy(snapshot.place / _MANIFEST, self._folder):
                return snapshot.model
        return None

    def list_files(self) -> list[tuple[SourceFile, bool]]:
        """The files that `fetch` would bring, and whether each is here already.

        Raises:
            LoadError: as `fetch`.
        """
        files, single = self._list()
        wanted = self._wanted(files, single)
        snapshot = _Snapshot.read(self._folder / _state(wanted))
        return [(file, snapshot is not None and snapshot.whole) for file in wanted]

    def _fetch(self) -> Path:
        for _ in range(_LISTINGS):
            files, single = self._list()
            wanted = self._wanted(files, single)
            place = self._folder / _state(wanted)
            snapshot = _Snapshot.read(place)
            # Without the lock: a folder that may only be read does as well.
            if snapshot is None or not snapshot.whole:
                try:
                    snapshot = self._made(place, wanted, single, [file.path for file in files])
                except ChangedError:
                    logger.info("%s has changed while it was read; it is listed again.", self._source.shown)
                    continue
            if not lock_copy(snapshot.place / _MANIFEST, self._folder):
                # Another process has just found it to be an old one.
                continue
            snapshot.use()
            self._delete_old(snapshot)
            return snapshot.model
        raise LoadError(f"{self._source.shown} changes while it is read: try again when it is complete.")

    def _made(self, place: Path, wanted: Sequence[SourceFile], single: bool, listed: list[str]) -> _Snapshot:
        """The copy at a place, made unless another process has done so meanwhile."""
        make_folder(self._folder)
        with _alone(self._folder / ".lock", self._source.shown):
            snapshot = _Snapshot.read(place)
            if snapshot is None or not snapshot.whole:
                snapshot = _Snapshot.read(self._make(place, wanted, single, listed))
            assert snapshot is not None, "this is a bug: a copy was made and is not there"
            return snapshot

    def _delete_old(self, current: _Snapshot) -> None:
        """Delete copies that were not used for the longest time, but for some, and those that are in use."""
        old = [each for each in self._snapshots() if each.place != current.place and self._is_of_this_choice(each)]
        old.sort(key=lambda each: each.used, reverse=True)
        if len(old) <= self._old_copies:
            return
        # Who makes or deletes copies has this lock; who comes later deletes what is left.
        with suppress(OSError, Timeout), FileLock(self._folder / ".lock", timeout=0):
            for snapshot in old[self._old_copies :]:
                size = sum(snapshot.sizes.values())
                if delete_unlocked_copy(snapshot.place, snapshot.place / _MANIFEST, f"{snapshot.place}{_PARTIAL}"):
                    logger.info(
                        "%s: the old copy %s is deleted, %d bytes (STORAGE_CACHE_OLD_COPIES=%d).",
                        self._source.shown, snapshot.place, size, self._old_copies,
                    )  # fmt: skip

    def _is_of_this_choice(self, snapshot: _Snapshot) -> bool:
        """Return whether it holds what this model needs of the source; another model may need another file."""
        try:
            return snapshot.single or set(self._choose(snapshot.listed)) == set(snapshot.sizes)
        except LoadError:
            return False

    def _list(self) -> tuple[Sequence[SourceFile], bool]:
        files = self._source.list()
        if not files:
            raise LoadError(f"{self._source.shown} holds no files: check the name.")
        return files, self._source.is_single(files)

    def _wanted(self, files: Sequence[SourceFile], single: bool) -> list[SourceFile]:
        if single:
            return list(files)
        chosen = set(self._choose([file.path for file in files]))
        if not chosen:
            raise LoadError(f"{self._source.shown} holds no files of a Hugging Face model.")
        return [file for file in files if file.path in chosen]

    def _snapshots(self) -> Iterator[_Snapshot]:
        if not self._folder.is_dir():
            return
        for place in self._folder.iterdir():
            if place.suffix != _PARTIAL and (snapshot := _Snapshot.read(place)) is not None:
                yield snapshot

    def _make(self, place: Path, wanted: Sequence[SourceFile], single: bool, listed: list[str]) -> Path:
        """Download a copy, and return where it is: there, or where the same content was already."""
        partial_place = place.with_name(place.name + _PARTIAL)
        for abandoned in self._folder.glob(f"*{_PARTIAL}"):
            if abandoned != partial_place:
                # Of a state that the source has left; nobody else writes while this process has the lock.
                shutil.rmtree(abandoned, ignore_errors=True)
        if place.exists():
            # Somebody has deleted or changed files: what is left of them is checked and completed.
            shutil.rmtree(partial_place, ignore_errors=True)
            place.rename(partial_place)
        download = partial_place / "download"
        here = sum(path.stat().st_size for path in _files(download))
        sizes = [file.size for file in wanted]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        check_space(download, (total or 0) - here, self._source.shown)
        with Progress(self._source.shown, total) as progress:
            progress.add(here)
            _Download(self._source, download, progress).run(wanted)
        content = None if _is_known(wanted) else _content(download, wanted)
        if content is not None and (same := self._with_content(content)) is not None:
            shutil.rmtree(partial_place, ignore_errors=True)
            return same.place
        model = download
        if single and not _is_gguf(download / wanted[0].path):
            unpacked = partial_place / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            try:
                model = unpack(_checked_archive(download / wanted[0].path, self._source.shown), unpacked, "the archive")
            except LoadError:
                shutil.rmtree(partial_place, ignore_errors=True)
                raise
            shutil.rmtree(download)
        manifest = {
            "source": self._source.shown,
            "single": single,
            "listed": listed,
            "model": model.relative_to(partial_place).as_posix(),
            "files": {path.relative_to(model).as_posix(): path.stat().st_size for path in _files(model)},
            "content": content,
        }
        (partial_place / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        partial_place.rename(place)
        return place

    def _with_content(self, content: str) -> _Snapshot | None:
        return next((each for each in self._snapshots() if each.content == content and each.whole), None)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A copy in place.

    Attributes:
        model: its folder.
        single: made from one archive or GGUF file.
        listed: all that the source held.
        sizes: bytes of each file.
        content: hash of what was downloaded, where the source does not tell one state from another.
    """

    place: Path
    model: Path
    single: bool
    listed: list[str]
    sizes: dict[str, int]
    content: str | None = None

    @classmethod
    def read(cls, place: Path) -> _Snapshot | None:
        try:
            said: Any = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
            return cls(
                place, place / said["model"], said["single"], said["listed"], said["files"], said.get("content")
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def whole(self) -> bool:
        """Whether every file is there in its size."""
        try:
            return all((self.model / path).stat().st_size == size for path, size in self.sizes.items())
        except OSError:
            return False

    @property
    def used(self) -> int:
        """When it was last used, in nanoseconds."""
        return (self.place / _MANIFEST).stat().st_mtime_ns

    def use(self) -> None:
        with suppress(OSError):
            os.utime(self.place / _MANIFEST)


class _Download:
    """Brings files of a source into a folder, where parts of them may be already."""

    def __init__(self, source: ModelSource, folder: Path, progress: Progress) -> None:
        self._source = source
        self._folder = folder
        self._progress = progress
        self._stopped = Event()

    def run(self, files: Sequence[SourceFile]) -> None:
        with ThreadPoolExecutor(_WORKERS, "download") as workers:
            try:
                for done in [workers.submit(self._bring, file) for file in files]:
                    done.result()
            except BaseException:
                self._stopped.set()
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        self._verify(files)

    def _bring(self, file: SourceFile) -> None:
        path = _inside(self._folder, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if file.size is None:
            # Nothing says whether what is here is all of it.
            path.write_bytes(b"")
        tries, pause = _TRIES, _PAUSE
        while not self._stopped.is_set():
            before = path.stat().st_size
            if before == file.size:
                return
            if file.size is not None and before > file.size:
                self._cut(path, 0)
            try:
                self._append(file, path)
                if file.size in (None, path.stat().st_size):
                    return
            except (InterruptedReadError, UnreachableError):
                # It has just listed its files, so it may soon answer again.
                pass
            if path.stat().st_size - before >= _PROGRESS:
                tries, pause = _TRIES, _PAUSE
                continue
            tries -= 1
            if not tries:
                raise UnreachableError(
                    f"{self._source.shown} was cut off again and again in {file.path}: check the network, try later."
                )
            sleep(pause)
            pause *= 2

    def _append(self, file: SourceFile, path: Path) -> None:
        start, chunks = self._source.read(file, path.stat().st_size)
        self._cut(path, start)
        with path.open("ab") as out:
            for chunk in chunks:
                if self._stopped.is_set():
                    return
                out.write(chunk)
                self._progress.add(len(chunk))
            out.flush()
            os.fsync(out.fileno())

    def _cut(self, path: Path, size: int) -> None:
        if (extra := path.stat().st_size - size) > 0:
            self._progress.add(-extra)
            os.truncate(path, size)

    def _verify(self, files: Sequence[SourceFile]) -> None:
        for file in sorted(files, key=lambda each: each.size or 0):
            if file.digest is None:
                continue
            path, (algorithm, expected) = _inside(self._folder, file.path), file.digest
            if (found := _digest(path, algorithm)) == expected:
                continue
            self._cut(path, 0)
            self._bring(file)
            again = _digest(path, algorithm)
            if again == expected:
                continue
            if again == found and not file.digest_is_certain:
                # Twice alike: the ETag is no digest, and then nor are those of larger files.
                logger.info(
                    "%s: ETags are no digests, as for encrypted objects; sizes are checked.", self._source.shown
                )
                return
            path.unlink()
            raise LoadError(f"{self._source.shown}: {file.path} came damaged twice ({algorithm} differs): try again.")


@contextmanager
def _alone(lock_file: Path, shown: str) -> Iterator[None]:
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process downloads it; waiting for that.", shown)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_known(files: Iterable[SourceFile]) -> bool:
    """Return whether the source tells one content of each file from another, if only by its size."""
    return all(file.size is not None or file.version or file.digest for file in files)


def _content(folder: Path, files: Iterable[SourceFile]) -> str:
    return _hash(json.dumps(sorted((file.path, _digest(_inside(folder, file.path), "sha256")) for file in files)))


def _state(files: Sequence[SourceFile]) -> str:
    """A name for exactly these files with this content."""
    parts = sorted((file.path, file.size, file.version, file.digest) for file in files)
    # Where nothing tells one content from another, no copy is known to be that of now.
    salt = "" if _is_known(files) else os.urandom(8).hex()
    return _hash(json.dumps(parts) + salt)[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def _inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise LoadError(f"the source names a file outside its folder: {path!r}.")
    return folder / parts


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(4) == b"GGUF"


def _checked_archive(path: Path, shown: str) -> Path:
    if not is_archive(path):
        raise LoadError(f"{shown} is no zip or tar archive that can be read, and no GGUF file: check what it leads to.")
    return path
