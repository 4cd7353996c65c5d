"""Cache of models on this disk.

Each source has a folder, and in it one folder per state of the source's files. Such a copy is downloaded under a
temporary name and renamed when it is complete; after that it never changes. If the source cannot be reached, the latest
copy is used. A process locks the copies that it serves from (`runners/storage/copy_locks.py`); old unlocked copies are
deleted.
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

#: Number of files that are downloaded at the same time.
_WORKERS = 4
#: Tries in a row to continue a file that is cut off; only tries with fewer than _PROGRESS new bytes count.
_TRIES = 5
_PROGRESS = 2**20
#: Seconds before the second try, doubled before each later one.
_PAUSE = 0.5
#: Tries to list a source whose files change during the download.
_LISTINGS = 3

_MANIFEST = "manifest.json"
_PARTIAL = ".partial"

#: Function that chooses the files to fetch out of the paths of all files of a source.
Choice = Callable[[Iterable[str]], list[str]]


class StorageCache:
    """Cache of the copies of one source.

    Args:
        root: folder of the copies of all sources.
        choose: chooses the files to fetch; not called for a source that is one archive.
        old_copies: number of old copies to keep, in addition to the current one and to copies that are in use.
    """

    def __init__(self, root: Path, source: ModelSource, choose: Choice, old_copies: int = 1) -> None:
        self._source = source
        self._choose = choose
        self._old_copies = old_copies
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", source.shown.replace("://", "-"))[-60:].strip("-.")
        self._folder = root.expanduser() / f"{name}-{_hash_text(source.identity)[:16]}"

    def fetch(self) -> Path:
        """Return the folder of a complete, current copy, downloaded if necessary.

        If the source cannot be reached, return the latest copy instead.

        Raises:
            LoadError: the source refuses, has no files or is cut off repeatedly, the disk is full, or the source cannot
                be reached and there is no copy.
        """
        try:
            return self._fetch()
        except UnreachableError as error:
            latest = self.find_latest()
            if latest is None:
                raise
            logger.warning("%s The copy in the cache is served.", error)
            return latest
        except OSError as error:
            if is_disk_full(error):
                raise make_no_space_error(self._folder, self._source.shown) from None
            raise LoadError(
                f"STORAGE_CACHE: {self._folder} cannot be used ({error.strerror}): choose a folder that may be written."
            ) from None

    def find_latest(self) -> Path | None:
        """Return the last used complete copy with all chosen files; None if there is none.

        The source is not asked.
        """
        for snapshot in sorted(self._iterate_snapshots(), key=lambda each: each.used_at, reverse=True):
            has_files = snapshot.single or set(self._choose(snapshot.listed)) <= set(snapshot.sizes)
            if snapshot.is_complete and has_files and lock_copy(snapshot.folder / _MANIFEST, self._folder):
                return snapshot.model
        return None

    def list_files(self) -> list[tuple[SourceFile, bool]]:
        """List the files that `fetch` would download, each with True if it is cached.

        Raises:
            LoadError: as `fetch`.
        """
        files, single = self._list_source()
        wanted = self._choose_files(files, single)
        snapshot = _Snapshot.read(self._folder / _name_state(wanted))
        return [(file, snapshot is not None and snapshot.is_complete) for file in wanted]

    def _fetch(self) -> Path:
        for _ in range(_LISTINGS):
            files, single = self._list_source()
            wanted = self._choose_files(files, single)
            folder = self._folder / _name_state(wanted)
            snapshot = _Snapshot.read(folder)
            # Checked without the lock, so that a read-only folder works too.
            if snapshot is None or not snapshot.is_complete:
                try:
                    snapshot = self._ensure_copy(folder, wanted, single, [file.path for file in files])
                except ChangedError:
                    logger.info("%s changed during the download; listing it again.", self._source.shown)
                    continue
            if not lock_copy(snapshot.folder / _MANIFEST, self._folder):
                # Another process has just deleted it as an old copy.
                continue
            snapshot.mark_used()
            self._delete_old_copies(snapshot)
            return snapshot.model
        raise LoadError(f"{self._source.shown} changes while it is read: try again when it is complete.")

    def _ensure_copy(self, folder: Path, wanted: Sequence[SourceFile], single: bool, listed: list[str]) -> _Snapshot:
        """Return the copy in a folder; make it unless another process did so meanwhile."""
        make_folder(self._folder)
        with _hold_lock(self._folder / ".lock", self._source.shown):
            snapshot = _Snapshot.read(folder)
            if snapshot is None or not snapshot.is_complete:
                snapshot = _Snapshot.read(self._make_copy(folder, wanted, single, listed))
            assert snapshot is not None, "this is a bug: a copy was made and is not there"
            return snapshot

    def _delete_old_copies(self, current: _Snapshot) -> None:
        """Delete the least recently used copies, except those to keep and those in use."""
        others = [each for each in self._iterate_snapshots() if each.folder != current.folder]
        old = [each for each in others if self._has_chosen_files(each)]
        old.sort(key=lambda each: each.used_at, reverse=True)
        if len(old) <= self._old_copies:
            return
        # If another process makes or deletes copies now, a later call deletes the old ones.
        with suppress(OSError, Timeout), FileLock(self._folder / ".lock", timeout=0):
            for snapshot in old[self._old_copies :]:
                size = sum(snapshot.sizes.values())
                if delete_unlocked_copy(snapshot.folder, snapshot.folder / _MANIFEST, f"{snapshot.folder}{_PARTIAL}"):
                    logger.info(
                        "%s: the old copy %s is deleted, %d bytes (STORAGE_CACHE_OLD_COPIES=%d).",
                        self._source.shown, snapshot.folder, size, self._old_copies,
                    )  # fmt: skip

    def _has_chosen_files(self, snapshot: _Snapshot) -> bool:
        """Return True if a copy contains exactly the files that this model needs.

        Another model may need other files of the same source.
        """
        try:
            return snapshot.single or set(self._choose(snapshot.listed)) == set(snapshot.sizes)
        except LoadError:
            return False

    def _list_source(self) -> tuple[Sequence[SourceFile], bool]:
        files = self._source.list()
        if not files:
            raise LoadError(f"{self._source.shown} holds no files: check the name.")
        return files, self._source.is_single(files)

    def _choose_files(self, files: Sequence[SourceFile], single: bool) -> list[SourceFile]:
        if single:
            return list(files)
        chosen = set(self._choose([file.path for file in files]))
        if not chosen:
            raise LoadError(f"{self._source.shown} holds no files of a Hugging Face model.")
        return [file for file in files if file.path in chosen]

    def _iterate_snapshots(self) -> Iterator[_Snapshot]:
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if folder.suffix != _PARTIAL and (snapshot := _Snapshot.read(folder)) is not None:
                yield snapshot

    def _make_copy(self, folder: Path, wanted: Sequence[SourceFile], single: bool, listed: list[str]) -> Path:
        """Download a copy and return its folder, or the folder of a copy with the same content."""
        partial_folder = folder.with_name(folder.name + _PARTIAL)
        for abandoned in self._folder.glob(f"*{_PARTIAL}"):
            if abandoned != partial_folder:
                # Left from an earlier state of the source. No other process writes while this one has the lock.
                shutil.rmtree(abandoned, ignore_errors=True)
        if folder.exists():
            # Files of the copy were deleted or changed, so check and complete the rest.
            shutil.rmtree(partial_folder, ignore_errors=True)
            folder.rename(partial_folder)
        download = partial_folder / "download"
        downloaded = sum(path.stat().st_size for path in _list_files_below(download))
        sizes = [file.size for file in wanted]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        check_space(download, (total or 0) - downloaded, self._source.shown)
        with Progress(self._source.shown, total) as progress:
            progress.add(downloaded)
            _Download(self._source, download, progress).run(wanted)
        content = None if _has_versions(wanted) else _hash_content(download, wanted)
        if content is not None and (same := self._find_content(content)) is not None:
            shutil.rmtree(partial_folder, ignore_errors=True)
            return same.folder
        model = download
        if single and not _is_gguf(download / wanted[0].path):
            unpacked = partial_folder / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            try:
                model = unpack(_check_archive(download / wanted[0].path, self._source.shown), unpacked, "the archive")
            except LoadError:
                shutil.rmtree(partial_folder, ignore_errors=True)
                raise
            shutil.rmtree(download)
        manifest = {
            "source": self._source.shown,
            "single": single,
            "listed": listed,
            "model": model.relative_to(partial_folder).as_posix(),
            "files": {path.relative_to(model).as_posix(): path.stat().st_size for path in _list_files_below(model)},
            "content": content,
        }
        (partial_folder / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        partial_folder.rename(folder)
        return folder

    def _find_content(self, content: str) -> _Snapshot | None:
        return next((each for each in self._iterate_snapshots() if each.content == content and each.is_complete), None)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Finished copy on the disk.

    Attributes:
        folder: folder of the copy.
        model: the model's folder in it.
        single: the copy is made from one archive or GGUF file.
        listed: paths of all files of the source.
        sizes: bytes of each file of the copy.
        content: hash of the downloaded files, if the source reports no version of them.
    """

    folder: Path
    model: Path
    single: bool
    listed: list[str]
    sizes: dict[str, int]
    content: str | None = None

    @classmethod
    def read(cls, folder: Path) -> _Snapshot | None:
        try:
            manifest: Any = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            return cls(
                folder, folder / manifest["model"], manifest["single"], manifest["listed"], manifest["files"],
                manifest.get("content"),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def is_complete(self) -> bool:
        """True if every file exists with its size."""
        try:
            return all((self.model / path).stat().st_size == size for path, size in self.sizes.items())
        except OSError:
            return False

    @property
    def used_at(self) -> int:
        """Time of the last use, in nanoseconds."""
        return (self.folder / _MANIFEST).stat().st_mtime_ns

    def mark_used(self) -> None:
        with suppress(OSError):
            os.utime(self.folder / _MANIFEST)


class _Download:
    """Download of files into a folder, which may contain parts of them already."""

    def __init__(self, source: ModelSource, folder: Path, progress: Progress) -> None:
        self._source = source
        self._folder = folder
        self._progress = progress
        self._stopped = Event()

    def run(self, files: Sequence[SourceFile]) -> None:
        with ThreadPoolExecutor(_WORKERS, "download") as workers:
            try:
                for done in [workers.submit(self._download_file, file) for file in files]:
                    done.result()
            except BaseException:
                self._stopped.set()
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        self._verify_digests(files)

    def _download_file(self, file: SourceFile) -> None:
        path = _join_inside(self._folder, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if file.size is None:
            # Without a size nothing shows if the existing part is complete, so start again.
            path.write_bytes(b"")
        tries, pause = _TRIES, _PAUSE
        while not self._stopped.is_set():
            before = path.stat().st_size
            if before == file.size:
                return
            if file.size is not None and before > file.size:
                self._truncate(path, 0)
            try:
                self._append(file, path)
                if file.size in (None, path.stat().st_size):
                    return
            except (InterruptedReadError, UnreachableError):
                # The source has just listed its files, so it will probably answer again soon.
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
        self._truncate(path, start)
        with path.open("ab") as out:
            for chunk in chunks:
                if self._stopped.is_set():
                    return
                out.write(chunk)
                self._progress.add(len(chunk))
            out.flush()
            os.fsync(out.fileno())

    def _truncate(self, path: Path, size: int) -> None:
        if (extra := path.stat().st_size - size) > 0:
            self._progress.add(-extra)
            os.truncate(path, size)

    def _verify_digests(self, files: Sequence[SourceFile]) -> None:
        for file in sorted(files, key=lambda each: each.size or 0):
            if file.digest is None:
                continue
            path, (algorithm, expected) = _join_inside(self._folder, file.path), file.digest
            if (found := _compute_digest(path, algorithm)) == expected:
                continue
            self._truncate(path, 0)
            self._download_file(file)
            again = _compute_digest(path, algorithm)
            if again == expected:
                continue
            if again == found and not file.digest_is_certain:
                # The same twice, so this ETag is no digest, nor are those of the larger files.
                logger.info(
                    "%s: ETags are no digests, as for encrypted objects; only sizes are checked.",
                    self._source.shown,
                )
                return
            path.unlink()
            raise LoadError(f"{self._source.shown}: {file.path} came damaged twice ({algorithm} differs): try again.")


@contextmanager
def _hold_lock(lock_file: Path, shown: str) -> Iterator[None]:
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process is downloading it; waiting for it to finish.", shown)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _has_versions(files: Iterable[SourceFile]) -> bool:
    """Return True if every file has a size, a version or a digest to compare."""
    return all(file.size is not None or file.version or file.digest for file in files)


def _hash_content(folder: Path, files: Iterable[SourceFile]) -> str:
    return _hash_text(
        json.dumps(sorted((file.path, _compute_digest(_join_inside(folder, file.path), "sha256")) for file in files))
    )


def _name_state(files: Sequence[SourceFile]) -> str:
    """Return a folder name for these files with this content."""
    parts = sorted((file.path, file.size, file.version, file.digest) for file in files)
    # Without sizes and versions no copy is known to be current, so the name is random.
    salt = "" if _has_versions(files) else os.urandom(8).hex()
    return _hash_text(json.dumps(parts) + salt)[:16]


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _compute_digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def _join_inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise LoadError(f"the source names a file outside its folder: {path!r}.")
    return folder / parts


def _list_files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(4) == b"GGUF"


def _check_archive(path: Path, shown: str) -> Path:
    if not is_archive(path):
        raise LoadError(f"{shown} is no zip or tar archive that can be read, and no GGUF file: check what it leads to.")
    return path
