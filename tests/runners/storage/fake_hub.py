"""Hub on 127.0.0.1 with the download API that huggingface_hub needs, and a request log."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from urllib.parse import unquote, urlsplit

from tests.runners.storage.threads import listening

_TREE = re.compile(r"/api/models/(?P<repo>[\w.-]+(?:/[\w.-]+)?)/tree/(?P<revision>[^/]+)")
_INFO = re.compile(r"/api/models/(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:/revision/(?P<revision>[^/]+))?")
_FILE = re.compile(r"/(?P<repo>[\w.-]+(?:/[\w.-]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Repo:
    """Repository with the files of each revision and its readers."""

    revisions: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        """Return the revision's commit hash, made from its content; None if it does not exist."""
        for name, files in self.revisions.items():
            commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, commit: str) -> dict[str, bytes]:
        """Return the files of a commit."""
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class FakeHub:
    """Repositories of the hub, its scripted faults, and its requests as `METHOD /path`.

    Attributes:
        status: status of every answer; 0 closes the connection without an answer.
        cuts: for each of the next contents, the bytes after which the connection ends.
        altered: contents that replace a file's own, under its old hash.
        listed_sizes: sizes that the listing claims for a file instead of its own.
        hold: event; contents are sent only after it is set.
        asked: event that is set as soon as a content is requested.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    status: int | None = None
    cuts: list[int] = field(default_factory=list)
    altered: dict[str, bytes] = field(default_factory=dict)
    listed_sizes: dict[str, int] = field(default_factory=dict)
    hold: Event | None = None
    asked: Event = field(default_factory=Event)

    def add(self, name: str, folder: Path, *, token: str | None = None, gated: bool = False) -> None:
        """Add a folder as revision main of a repository."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repos[name] = Repo({"main": files}, token, gated)

    def downloads(self) -> list[str]:
        """Return the names of the files whose content was fetched, sorted."""
        matches = [_FILE.fullmatch(request.removeprefix("GET ")) for request in self.requests]
        return sorted(match["file"] for match in matches if match)


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Run a hub without repositories until the context is left."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with listening(Handler) as hub.url:
        yield hub


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".gguf"))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status == 0:
            self.close_connection = True
        elif self.hub.status is not None:
            self._answer(self.hub.status)
        # Matched before unquoting: a revision such as refs/pr/1 is one quoted segment.
        elif match := _FILE.fullmatch(urlsplit(self.path).path):
            self._file(match["repo"], unquote(match["revision"]), unquote(match["file"]))
        elif match := _TREE.fullmatch(urlsplit(self.path).path) or _INFO.fullmatch(urlsplit(self.path).path):
            self._listing(match["repo"], unquote(match["revision"] or "main"), tree=match.re is _TREE)
        else:
            self._answer(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: tests read `requests`."""

    def _readable(self, name: str, revision: str) -> tuple[Repo, str] | None:
        """Return the repository and the commit, or None after the hub's own kind of refusal."""
        repo = self.hub.repos.get(name)
        given = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if repo is None or (repo.token is not None and given != repo.token):
            # The real hub does not distinguish a private repository from a missing one either.
            self._answer(404 if given else 401, {"X-Error-Code": "RepoNotFound"})
        elif repo.gated:
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif (commit := repo.commit(revision)) is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo, commit
        return None

    def _listing(self, name: str, revision: str, *, tree: bool) -> None:
        if (found := self._readable(name, revision)) is None:
            return
        repo, commit = found
        files = [
            self._entry(path, self.hub.listed_sizes.get(path, len(content)), content)
            for path, content in repo.files(commit).items()
        ]
        siblings = [{"rfilename": file["path"]} for file in files]
        body = files if tree else {"id": name, "sha": commit, "siblings": siblings}
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _entry(self, path: str, size: int, content: bytes) -> dict[str, object]:
        entry = {"type": "file", "path": path, "size": size, "oid": hashlib.sha1(content).hexdigest()}
        if _is_large(path):
            entry |= {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}}
        return entry

    def _file(self, name: str, revision: str, path: str) -> None:
        if (found := self._readable(name, revision)) is None:
            return
        repo, commit = found
        content = repo.files(commit).get(path)
        if content is None:
            return self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        kind = hashlib.sha256 if _is_large(path) else hashlib.sha1
        headers = {"X-Repo-Commit": commit, "ETag": f'"{kind(content).hexdigest()}"'}
        content = self.hub.altered.get(path, content)
        start = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if start is not None:
            headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
            content = content[int(start[1]) :]
        if self.command == "GET":
            self.hub.asked.set()
            if self.hub.hold is not None:
                self.hub.hold.wait()
        self._answer(206 if start else 200, headers, content)

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.cuts.pop(0) if self.hub.cuts and "ETag" in (headers or {}) else None
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None
