"""Copies of models on this disk: each complete or not there, fetched once, and kept while their source is away.

A source has a folder of its own, and each state of its files a folder in that. A copy is made beside the others, under
a name that nobody reads, and renamed when it is whole; none that is in place is ever written to.
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

from loading import LoadError
from loading.archive import is_archive, unpack
from loading.disk import check_space, is_full, no_space
from loading.progress import Progress
from loading.source import ChangedError, InterruptedReadError, Source, SourceFile, UnreachableError
from whole_files import make_folder

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
    """

    def __init__(self, root: Path, source: Source, choose: Choice) -> None:
        self._source = source
        self._choose = choose
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
            known = self.newest()
            if known is None:
                raise
            logger.warning("%s The copy in the cache is served.", error)
            return known
        except OSError as error:
            if is_full(error):
                raise no_space(self._folder, self._source.shown) from None
            raise LoadError(
                f"STORAGE_CACHE: {self._folder} cannot be used ({error.strerror}): choose a folder that may be written."
            ) from None

    def newest(self) -> Path | None:
        """The copy that was last used, of those that have what is wanted; None if there is none. Asks nobody."""
        for snapshot in sorted(self._snapshots(), key=lambda each: each.used, reverse=True):
            if snapshot.whole and (snapshot.single or set(self._choose(snapshot.listed)) <= set(snapshot.sizes)):
                return snapshot.model
        return None

    def listed(self) -> list[tuple[SourceFile, bool]]:
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
            if snapshot is not None and snapshot.whole:
                # Without the lock: a folder that may only be read does as well.
                snapshot.use()
                return snapshot.model
            make_folder(self._folder)
            try:
                with _alone(self._folder / ".lock", self._source.shown):
                    snapshot = _Snapshot.read(place)
                    if snapshot is None or not snapshot.whole:
                        self._make(place, wanted, single, [file.path for file in files])
                        snapshot = _Snapshot.read(place)
                    assert snapshot is not None
                    snapshot.use()
                    return snapshot.model
            except ChangedError:
                logger.info("%s has changed while it was read; it is listed again.", self._source.shown)
        raise LoadError(f"{self._source.shown} changes while it is read: try again when it is complete.")

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

    def _make(self, place: Path, wanted: Sequence[SourceFile], single: bool, listed: list[str]) -> None:
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
        }
        (partial_place / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        partial_place.rename(place)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A copy in place.

    Attributes:
        model: its folder.
        single: made from one archive or GGUF file.
        listed: all that the source held.
        sizes: bytes of each file.
    """

    place: Path
    model: Path
    single: bool
    listed: list[str]
    sizes: dict[str, int]

    @classmethod
    def read(cls, place: Path) -> _Snapshot | None:
        try:
            said: Any = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
            return cls(place, place / said["model"], said["single"], said["listed"], said["files"])
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

    def __init__(self, source: Source, folder: Path, progress: Progress) -> None:
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


def _state(files: Iterable[SourceFile]) -> str:
    """A name for exactly these files with this content."""
    parts = sorted((file.path, file.size, file.version, file.digest) for file in files)
    # Where nothing tells one content from another, no copy is known to be that of now.
    salt = os.urandom(8).hex() if any(size is None and not version for _, size, version, _ in parts) else ""
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
