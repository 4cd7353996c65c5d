"""Models on web servers: one archive or GGUF file at an http:// or https:// URL."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from pydantic import SecretStr
from requests import PreparedRequest, Response

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings.uri import redact_logged_urls, shown_uri, unsigned_uri
from runners.storage.source import ChangedError, InterruptedReadError, SourceFile, UnreachableError

redact_logged_urls("urllib3.connectionpool")

#: Bytes of one chunk; if the answer is cut off, the incomplete chunk is lost.
_CHUNK = 2**16
#: Timeouts in seconds: to connect, and between two chunks of an answer.
_TIMEOUT = (10, 60)
_DIGESTS = {"md5": "md5", "sha-256": "sha256", "sha-512": "sha512"}


class WebSource:
    """File at a URL.

    Args:
        uri: may contain user and password, or a signature.
        options: variables of the model; `<host>-headers` is a JSON object of request headers, as in KServe.

    Raises:
        LoadError: the URL has no host or no path, or the headers are not a JSON object of strings.
    """

    is_folder = False

    def __init__(self, uri: str, options: Mapping[str, SecretStr]) -> None:
        self.identity = unsigned_uri(uri)
        self.shown = shown_uri(uri)
        self._url = uri
        host = parse_host(uri)
        self._headers = _read_headers(host, options)

    def list(self) -> Sequence[SourceFile]:
        """List the one file; `ModelSource.list`."""
        with closing(self._get({})) as response:
            name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(self._url).path).rstrip("/").rsplit("/", 1)[-1]).lstrip(".")
            return [SourceFile(name or "model", _read_size(response), _read_version(response), _read_digest(response))]

    def is_single(self, files: Sequence[SourceFile]) -> bool:
        """Return True, because a URL is always one file; `ModelSource.is_single`."""
        return True

    def read(self, file: SourceFile, start: int) -> tuple[int, Iterator[bytes]]:
        """Read the file from an offset; `ModelSource.read`."""
        headers = {}
        # Resume only with a strong ETag: otherwise the two parts may be of different versions.
        if start and file.version and file.version.startswith('"'):
            headers = {"Range": f"bytes={start}-", "If-Match": file.version}
        response = self._get(headers)
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            start = 0
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            response.close()
            raise LoadError(f"{self.shown}: the server answers with another range than the one asked for.")
        if _read_version(response) != file.version or (start == 0 and _read_size(response) != file.size):
            response.close()
            raise ChangedError
        return start, _iterate_chunks(response)

    def read_small(self, path: str) -> bytes | None:
        """Return None, because the files of an archive are unknown; `ModelSource.read_small`."""
        return None

    def _get(self, headers: dict[str, str]) -> Response:
        session = _Session(self._headers)
        try:
            response = session.get(
                # Request raw bytes: with a content encoding the size would differ.
                self._url, headers={**headers, "Accept-Encoding": "identity"}, stream=True, timeout=_TIMEOUT
            )  # fmt: skip
        except requests.exceptions.SSLError:
            raise LoadError(f"{self.shown}: the server's certificate is not trusted here.") from None
        except (requests.ConnectionError, requests.Timeout):
            raise UnreachableError(f"{self.shown} cannot be reached: check the address and the network.") from None
        except (requests.RequestException, ValueError) as error:
            raise LoadError(f"{self.shown} cannot be fetched: {type(error).__name__}.") from None
        if response.ok:
            return response
        status = response.status_code
        response.close()
        if status == HTTPStatus.PRECONDITION_FAILED or status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise ChangedError
        raise self._make_load_error(status)

    def _make_load_error(self, status: int) -> LoadError:
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            variable = f"{parse_host(self._url)}-headers"
            return LoadError(
                f"{self.shown} refuses access (status {status}): sign the link again, or set {variable} to a JSON "
                "object of request headers."
            )
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return LoadError(f"{self.shown} does not exist: check the address.")
        if status >= 500 or status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT):
            return UnreachableError(f"{self.shown} answered status {status}: try again later.")
        return LoadError(f"{self.shown} answered status {status}: check the address.")


def parse_host(uri: str) -> str:
    """Return the host of a URL.

    Raises:
        LoadError: the URL has no host or no path.
    """
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not parts.path.strip("/"):
        raise LoadError(
            f"STORAGE_URI: {shown_uri(uri)} is not of the form https://host/path of an archive or a GGUF file."
        )
    return host


class _Session(requests.Session):
    """Session that does not send the operator's headers to another host after a redirect."""

    def __init__(self, own_headers: dict[str, str]) -> None:
        super().__init__()
        self._own_headers = own_headers
        self.headers.update(own_headers)

    def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
        if self.should_strip_auth(response.request.url or "", prepared_request.url or ""):  # type: ignore[no-untyped-call]
            for name in self._own_headers:
                prepared_request.headers.pop(name, None)
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]


def _read_headers(host: str, options: Mapping[str, SecretStr]) -> dict[str, str]:
    value = options.get(f"{host}-headers")
    if value is None:
        return {}
    try:
        headers = json.loads(value.get_secret_value())
    except ValueError:
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
        raise LoadError(f"{host}-headers is not a JSON object of request headers.")
    return headers


def _iterate_chunks(response: Response) -> Iterator[bytes]:
    with closing(response):
        try:
            yield from response.raw.stream(_CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError):
            raise InterruptedReadError from None


def _read_size(response: Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _read_version(response: Response) -> str | None:
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def _read_digest(response: Response) -> tuple[str, str] | None:
    """Return algorithm and digits of the content's digest; None if there is none.

    The headers are those of RFC 9530, RFC 3230 and RFC 1864.
    """
    fields = f"{response.headers.get('Repr-Digest', '')},{response.headers.get('Digest', '')}"
    if md5 := response.headers.get("Content-MD5"):
        fields += f",md5={md5}"
    for name, digits in re.findall(r"([\w-]+)=:?([A-Za-z0-9+/]+={0,2})", fields):
        if (algorithm := _DIGESTS.get(name.lower())) is not None:
            try:
                return algorithm, base64.b64decode(digits, validate=True).hex()
            except ValueError:
                continue
    return None
