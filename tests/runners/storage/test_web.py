"""Promise: a file on a web server is fetched whole and once, and no secret leaks."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import RemoteFile, check_uri, fetch, list_files, read_config
from tests.runners.storage import fake_files
from tests.runners.storage.fake_files import FakeFiles
from tests.runners.storage.refusals import refusal

SECRET = "only-one-host-may-read-this"
GGUF = b"GGUF" + bytes(range(256)) * 1000


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def web() -> Iterator[FakeFiles]:
    with fake_files.serving() as fake:
        fake.files = {"models/model.zip": _zip({"config.json": "{}", "model.safetensors": "w"}), "models/a.gguf": GGUF}
        yield fake


def _zip(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _settings(uri: str, tmp_path: Path, options: dict[str, str] | None = None, **more: Any) -> ModelSettings:
    secrets = {name: SecretStr(value) for name, value in (options or {}).items()}
    return ModelSettings(storage_uri=uri, storage_options=secrets, storage_cache=tmp_path / "cache", **more)


def _refusal(settings: ModelSettings) -> str:
    return refusal(settings, SECRET)


def test_an_archive_is_unpacked_and_fetched_once(web: FakeFiles, tmp_path: Path) -> None:
    settings = _settings(f"{web.url}/models/model.zip", tmp_path)
    first = fetch(settings)
    assert sorted(path.name for path in first.folder.iterdir()) == ["config.json", "model.safetensors"]
    assert read_config(settings) == {}
    web.cuts = [0] * 10
    assert fetch(settings) == first


def test_a_gguf_file_is_stored_unchanged(web: FakeFiles, tmp_path: Path) -> None:
    checkpoint = fetch(_settings(f"{web.url}/models/a.gguf", tmp_path))
    assert checkpoint == Checkpoint(checkpoint.folder, "a.gguf")
    assert (checkpoint.folder / "a.gguf").read_bytes() == GGUF
    assert list_files(_settings(f"{web.url}/models/a.gguf", tmp_path)) == [RemoteFile("a.gguf", len(GGUF), True)]


def test_a_download_is_resumed_where_it_was_cut_off(web: FakeFiles, tmp_path: Path) -> None:
    web.cuts = [0, 100_000, 100_000]  # the first connection reads the headers only
    checkpoint = fetch(_settings(f"{web.url}/models/a.gguf", tmp_path))
    assert (checkpoint.folder / "a.gguf").read_bytes() == GGUF
    assert [headers["Range"] for headers in web.headers if "Range" in headers] != []


def test_a_server_without_ranges_sends_the_whole_file_again(web: FakeFiles, tmp_path: Path) -> None:
    web.ranges = False
    web.cuts = [0, 100_000]
    checkpoint = fetch(_settings(f"{web.url}/models/a.gguf", tmp_path))
    assert (checkpoint.folder / "a.gguf").read_bytes() == GGUF
    web.cuts = [0] + [100_000] * 10
    assert "cut off again and again in model.zip" not in _refusal(_settings(f"{web.url}/models/none.zip", tmp_path))
    web.files["models/b.gguf"] = GGUF
    assert "cut off again and again in b.gguf" in _refusal(_settings(f"{web.url}/models/b.gguf", tmp_path))


@pytest.mark.parametrize(
    ("header", "algorithm", "form"),
    [
        ("Repr-Digest", "sha256", "sha-256=:{}:"),
        ("Digest", "sha256", "SHA-256={}"),
        ("Content-MD5", "md5", "{}"),
        ("Repr-Digest", "sha512", "unixsum=:MQ==:, sha-512=:{}:"),
    ],
)
def test_a_digest_of_the_server_is_checked(
    web: FakeFiles, tmp_path: Path, header: str, algorithm: str, form: str
) -> None:
    digest = base64.b64encode(hashlib.new(algorithm, GGUF).digest()).decode()
    web.extra = {header: form.format(digest)}
    damaged = GGUF[:-1] + b"x"
    web.altered["models/a.gguf"] = [GGUF, damaged, damaged]
    assert f"damaged twice ({algorithm} differs)" in _refusal(_settings(f"{web.url}/models/a.gguf", tmp_path))
    assert fetch(_settings(f"{web.url}/models/a.gguf", tmp_path)).gguf_file == "a.gguf"


def test_a_file_that_is_neither_archive_nor_gguf_is_refused(web: FakeFiles, tmp_path: Path) -> None:
    web.files["model"] = b"<html>Sign in</html>"
    assert "is no zip or tar archive" in _refusal(_settings(f"{web.url}/model", tmp_path))
    web.files["half.zip"] = web.files["models/model.zip"][:-30]
    assert "is no zip or tar archive" in _refusal(_settings(f"{web.url}/half.zip", tmp_path))


@pytest.mark.parametrize(
    ("status", "named"),
    [
        (401, "refuses access (status 401): sign the link again, or set 127.0.0.1-headers"),
        (403, "refuses access (status 403)"),
        (404, "does not exist: check the address"),
        (418, "answered status 418"),
        (503, "answered status 503: try again later"),
        (0, "cannot be reached"),
    ],
)
def test_every_refusal_is_one_sentence_without_the_signature(
    web: FakeFiles, tmp_path: Path, status: int, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    web.status = status
    uri = f"{web.url}/models/a.gguf?X-Amz-Signature={SECRET}".replace("//", f"//user:{SECRET}@", 1)
    with caplog.at_level(logging.DEBUG):
        message = _refusal(_settings(uri, tmp_path))
    assert named in message
    assert message.startswith(f"{web.url}/models/a.gguf")
    assert SECRET not in caplog.text


def test_user_password_and_query_reach_the_server_and_no_log(
    web: FakeFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"{web.url}/models/a.gguf?sig={SECRET}".replace("//", f"//user:{SECRET}@", 1)
    with caplog.at_level(logging.DEBUG):
        first = fetch(_settings(uri, tmp_path))
    basic = base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert all(headers["Authorization"] == f"Basic {basic}" for headers in web.headers)
    assert all(query == f"sig={SECRET}" for query in web.queries)
    assert SECRET not in caplog.text
    # A link with a new signature leads to the same copy.
    web.cuts = [0] * 10
    assert fetch(_settings(uri.replace(SECRET, "another"), tmp_path)) == first


def test_headers_are_sent_to_their_host_and_not_to_redirected_hosts(web: FakeFiles, tmp_path: Path) -> None:
    with fake_files.serving() as private:
        private.wanted = {"X-Api-Key": SECRET}
        private.redirects["/moved.gguf"] = f"{web.url}/models/a.gguf"
        options = {"127.0.0.1-headers": json.dumps({"X-Api-Key": SECRET})}
        assert "refuses access" in _refusal(_settings(f"{private.url}/moved.gguf", tmp_path))
        fetch(_settings(f"{private.url}/moved.gguf", tmp_path, options))
    assert web.headers != []
    assert not any("X-Api-Key" in headers for headers in web.headers)


def test_headers_that_are_no_json_are_refused(web: FakeFiles, tmp_path: Path) -> None:
    for value in (SECRET, "[1]", '{"a": 1}'):
        message = _refusal(_settings(f"{web.url}/models/a.gguf", tmp_path, {"127.0.0.1-headers": value}))
        assert message == "127.0.0.1-headers is not a JSON object of request headers."


def test_a_changed_file_is_fetched_again(web: FakeFiles, tmp_path: Path) -> None:
    settings = _settings(f"{web.url}/models/a.gguf", tmp_path)
    old = fetch(settings)
    web.files["models/a.gguf"] = GGUF[::-1].replace(GGUF[::-1][:4], b"GGUF")
    assert fetch(settings).folder != old.folder
    assert (old.folder / "a.gguf").read_bytes() == GGUF


@pytest.mark.parametrize("uri", ["https://", "https://host", "https://host/", "http://[/model.zip", "http://h:p/a.zip"])
def test_a_uri_of_another_form_is_refused_without_a_request(uri: str) -> None:
    with pytest.raises(LoadError, match=r"is not of the form https://host/path of an archive or a GGUF file\.$"):
        check_uri(ModelSettings(storage_uri=uri))
    check_uri(ModelSettings(storage_uri="https://host/model.zip"))
