"""Web server on 127.0.0.1 with files, ranges and ETags, scripted faults and a request log."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.runners.storage.threads import listening


@dataclass
class FakeFiles:
    """Files of the server, its scripted faults, and its requests as `METHOD path`.

    Attributes:
        cuts: for each of the next contents, the bytes after which the connection ends.
        status: status of every answer; 0 closes the connection without an answer.
        code: code of the error that goes with `status`, in the form of object stores.
        wanted: headers that a request must have; other requests get 403.
        extra: headers of every content.
        ranges: True if ranges are supported and contents have an ETag.
        sized: True if answers have a Content-Length.
        altered: contents that replace a file's own, under its old ETag, for the next requests.
        redirects: paths and the URLs that they redirect to.
        hold: event; contents are sent only after it is set.
        asked: event that is set as soon as a content is requested.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    status: int | None = None
    code: str = "AccessDenied"
    wanted: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    sized: bool = True
    altered: dict[str, list[bytes]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    hold: Event | None = None
    asked: Event = field(default_factory=Event)

    def downloads(self) -> list[str]:
        """Return the names of the files whose content was fetched, sorted."""
        return sorted(name for name in (each.removeprefix("GET /") for each in self.requests) if name in self.files)


def etag(content: bytes) -> str:
    """Return an ETag as object stores compute it."""
    return f'"{hashlib.md5(content).hexdigest()}"'


class FilesHandler(BaseHTTPRequestHandler):
    """Handler that serves `files` by their path; subclasses add listings."""

    server_files: FakeFiles
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fake, parts = self.server_files, urlsplit(self.path)
        path = unquote(parts.path).lstrip("/")
        fake.requests.append(f"{self.command} /{path}")
        fake.headers.append(dict(self.headers.items()))
        fake.queries.append(parts.query)
        if fake.status == 0:
            self.close_connection = True
        elif fake.status is not None:
            self.refuse(fake.status, fake.code)
        elif any(self.headers[name] != value for name, value in fake.wanted.items()):
            self.refuse(403, fake.code)
        elif f"/{path}" in fake.redirects:
            self.answer(302, {"Location": fake.redirects[f"/{path}"]})
        elif path in fake.files:
            self._content(path)
        else:
            self.other(path, parts.query)

    do_HEAD = do_GET

    def other(self, path: str, query: str) -> None:
        """Answer a request for something other than a file."""
        self.refuse(404, "NoSuchKey")

    def refuse(self, status: int, code: str) -> None:
        """Send an error in the form of object stores."""
        self.answer(status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a whole answer."""
        self.send_response(status)
        length = {"Content-Length": str(len(body))} if self.server_files.sized else {"Connection": "close"}
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: tests read `requests`."""

    def _content(self, path: str) -> None:
        fake, content = self.server_files, self.server_files.files[path]
        tag = etag(content)
        if self.headers["If-Match"] not in (None, tag):
            return self.refuse(412, "PreconditionFailed")
        if self.command == "GET" and fake.altered.get(path):
            content = fake.altered[path].pop(0)
        headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "ETag": tag} if fake.ranges else {}
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "") if fake.ranges else None
        status = 200
        if start is not None:
            begin, end = int(start[1]), min(int(start[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            status, content = 206, content[begin : end + 1]
        headers |= fake.extra
        if self.command == "HEAD":
            return self.answer(status, {**headers, "Content-Length": str(len(content))})
        fake.asked.set()
        if fake.hold is not None:
            fake.hold.wait()
        if not fake.cuts:
            return self.answer(status, headers, content)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: fake.cuts.pop(0)])
        self.close_connection = True


@contextmanager
def serving(handler: type[FilesHandler] = FilesHandler, **state: Any) -> Iterator[FakeFiles]:
    """Run a server without files until the context is left."""
    fake = FakeFiles(**state)

    class Handler(handler):  # type: ignore[misc,valid-type]
        server_files = fake

    with listening(Handler) as fake.url:
        yield fake
