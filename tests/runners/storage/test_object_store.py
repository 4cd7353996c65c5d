"""Promise: a model in an object store is fetched whole and once, or clearly refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage import storage_cache
from runners.storage.fetch import RemoteFile, check_uri, fetch, list_files, read_config
from runners.storage.object_store import ObjectSource
from tests.runners.storage import fake_files, fake_s3
from tests.runners.storage.fake_azure import AzureHandler
from tests.runners.storage.fake_bucket import BucketHandler
from tests.runners.storage.fake_files import FakeFiles
from tests.runners.storage.refusals import refusal

SECRET = "c2VjcmV0LW5vLW9uZS1tYXktcmVhZA=="
MODEL = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"weights " * 2**15,
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
}
FETCHED = ["1_Pooling/config.json", "config.json", "model.safetensors"]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the machine's own identity."""
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")


class Store:
    """One of the stores with a model under `model/`, and the settings that lead to it."""

    def __init__(self, kind: str, fake: FakeFiles, cache: Path) -> None:
        self.kind, self.fake, self.cache = kind, fake, cache
        self.root = {"s3": "bucket", "gs": "bucket", "azure": "account/container"}[kind]
        self.uri = {
            "s3": "s3://bucket/model",
            "gs": "gs://bucket/model",
            "azure": "https://account.blob.core.windows.net/container/model",
        }[kind]
        self.put(MODEL)

    def put(self, files: Mapping[str, bytes], folder: str = "model/") -> None:
        """Add files below a folder."""
        self.fake.files.update({f"{self.root}/{folder}{name}": content for name, content in files.items()})

    def settings(self, uri: str | None = None, options: Mapping[str, str] | None = None, **more: Any) -> ModelSettings:
        """Return settings with keys; `options` override them."""
        given = {
            "s3": {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.fake.url},
            "gs": {"GOOGLE_BEARER_TOKEN": SECRET, "GOOGLE_BASE_URL": self.fake.url},
            "azure": {"AZURE_STORAGE_ACCESS_KEY": SECRET, "AZURE_ENDPOINT": f"{self.fake.url}/account"},
        }[self.kind]
        secrets = {name: SecretStr(value) for name, value in {**given, **(options or {})}.items()}
        return ModelSettings(
            storage_uri=uri or self.uri, storage_options=secrets, storage_cache=self.cache, **more
        )  # fmt: skip

    def key(self, name: str) -> str:
        """Return the key of a file of the model."""
        return f"{self.root}/model/{name}"


@pytest.fixture(params=["s3", "gs", "azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    handler = AzureHandler if request.param == "azure" else BucketHandler
    with fake_files.serving(handler) as fake:
        yield Store(request.param, fake, tmp_path / "cache")


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Store]:
    with fake_files.serving(BucketHandler) as fake:
        yield Store("s3", fake, tmp_path / "cache")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refusal(settings: ModelSettings) -> str:
    return refusal(settings, SECRET)


def test_only_the_needed_files_are_fetched_with_the_operators_key(store: Store) -> None:
    assert _files(fetch(store.settings()).folder) == {name: MODEL[name] for name in FETCHED}
    assert all(headers.get("authorization") for headers in store.fake.headers)
    assert store.fake.downloads() == [store.key(name) for name in FETCHED]


def test_a_second_start_downloads_nothing(store: Store) -> None:
    first = fetch(store.settings())
    store.fake.requests.clear()
    assert fetch(store.settings()) == first
    assert store.fake.downloads() == []


def test_a_changed_file_makes_a_new_copy_and_keeps_the_old_one(store: Store) -> None:
    old = fetch(store.settings()).folder
    store.put({"model.safetensors": b"other"})
    new = fetch(store.settings()).folder
    assert (new / "model.safetensors").read_bytes() == b"other"
    assert (old / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_copy_is_served_while_the_store_is_down(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first = fetch(store.settings())
    store.fake.status = 503
    with caplog.at_level(logging.WARNING, "runners"):
        assert fetch(store.settings()) == first
        assert read_config(store.settings()) == {"model_type": "bert"}
    assert "The copy in the cache is served" in caplog.text
    assert "status 503" in _refusal(store.settings(f"{store.uri}/1_Pooling"))


def test_offline_no_request_is_sent(store: Store) -> None:
    assert "HF_HUB_OFFLINE" in _refusal(store.settings(offline=True))
    first = fetch(store.settings())
    store.fake.requests.clear()
    assert fetch(store.settings(offline=True)) == first
    assert read_config(store.settings(offline=True)) == {"model_type": "bert"}
    assert [file.path for file in list_files(store.settings(offline=True))] == FETCHED
    assert store.fake.requests == []


def test_a_file_that_is_cut_off_is_resumed(store: Store) -> None:
    store.fake.cuts = [70_000] * 5
    assert _files(fetch(store.settings()).folder) == {name: MODEL[name] for name in FETCHED}
    assert any("range" in headers for headers in store.fake.headers)


def test_a_store_that_is_briefly_unreachable_is_retried(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ObjectSource.list

    def go_away(source: ObjectSource) -> Any:
        files = listed(source)
        store.fake.status = 503
        return files

    monkeypatch.setattr(ObjectSource, "list", go_away)
    monkeypatch.setattr(storage_cache, "sleep", lambda seconds: setattr(store.fake, "status", None))
    assert _files(fetch(store.settings()).folder) == {name: MODEL[name] for name in FETCHED}


def test_a_file_that_is_cut_off_repeatedly_is_resumed_at_the_next_start(store: Store) -> None:
    store.fake.cuts = [70_000] * 3 + [1] * 100
    assert "cut off again and again" in _refusal(store.settings())
    store.fake.cuts = []
    store.fake.headers.clear()
    assert _files(fetch(store.settings()).folder) == {name: MODEL[name] for name in FETCHED}
    assert any("range" in headers for headers in store.fake.headers)


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (403, "AccessDenied", "refuses access (403): set "),
        (401, "Unauthorized", "refuses access (401): set "),
        (404, "NoSuchBucket", "there is no bucket"),
        (403, "SignatureDoesNotMatch", "the keys are not valid (SignatureDoesNotMatch)"),
        (400, "AuthorizationHeaderMalformed", "is in another region: set AWS_DEFAULT_REGION"),
        (500, "InternalError", "answered status 500: try again later"),
        (301, "", "is in another region: set AWS_DEFAULT_REGION"),
        (418, "Teapot", "answered status 418"),
        (0, "", "cannot be reached: check the endpoint and the network"),
    ],
)
def test_every_refusal_is_one_sentence(store: Store, status: int, code: str, named: str) -> None:
    store.fake.status, store.fake.code = status, code
    assert named in _refusal(store.settings())
    with pytest.raises(LoadError):
        list_files(store.settings())


def test_a_path_without_objects_is_reported_as_empty(store: Store) -> None:
    assert "holds nothing: check the path" in _refusal(store.settings(f"{store.uri}-2"))
    assert "holds nothing: check the path" in _refusal(store.settings(f"{store.uri}/none.tar.gz"))


def test_the_config_is_fetched_without_the_weights(store: Store) -> None:
    assert read_config(store.settings()) == {"model_type": "bert"}
    assert read_config(store.settings(), "adapter_config.json") is None
    assert store.fake.downloads() == [store.key("config.json")]
    store.put({"config.json": b"{"})
    with pytest.raises(LoadError, match=r"model/config\.json is not valid JSON"):
        read_config(store.settings())


def test_files_to_fetch_are_listed_with_sizes(store: Store) -> None:
    expected = [RemoteFile(name, len(MODEL[name])) for name in FETCHED]
    assert list_files(store.settings()) == expected
    assert store.fake.downloads() == []
    fetch(store.settings())
    assert list_files(store.settings()) == [RemoteFile(file.path, file.size, cached=True) for file in expected]


def test_no_secret_is_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        store.fake.cuts = [1]
        fetch(store.settings())
        store.fake.status = 403
        _refusal(store.settings())
    assert SECRET not in caplog.text
    assert store.uri in caplog.text


def test_an_object_that_requires_a_key_is_refused_without_it(store: Store) -> None:
    store.fake.wanted = {"Authorization": "another"}
    assert "refuses access (403)" in _refusal(store.settings())


def test_a_whole_bucket_is_a_model_too(store: Store) -> None:
    store.put(MODEL, "")
    folder = fetch(store.settings(store.uri.removesuffix("/model"))).folder
    assert _files(folder)["model.safetensors"] == MODEL["model.safetensors"]


def test_empty_objects_for_folders_are_not_part_of_the_model(store: Store) -> None:
    store.put({"model": b"", "model/1_Pooling": b"", "model/__init__.py": b""}, "")
    assert sorted(_files(fetch(store.settings()).folder)) == sorted([*FETCHED, "__init__.py"])


def test_a_gguf_file_is_found_by_its_object(store: Store) -> None:
    store.put({"a.gguf": b"GGUF...", "b.gguf": b"GGUF"})
    checkpoint = fetch(store.settings(f"{store.uri}/a.gguf"))
    assert (checkpoint.folder / "a.gguf").read_bytes() == b"GGUF..."
    assert checkpoint.gguf_file == "a.gguf"
    assert store.fake.downloads() == [store.key("a.gguf")]


def test_all_files_are_fetched_for_trusted_remote_code(store: Store) -> None:
    store.put({"custom_pipeline.py": b"", "model/config.json": b"{}", "model/model.safetensors": b"inner"})
    assert "model/model.safetensors" not in _files(fetch(store.settings()).folder)
    everything = _files(fetch(store.settings(trust_remote_code=True)).folder)
    assert everything["model/model.safetensors"] == b"inner"
    assert everything["onnx/model.onnx"] == b"onnx"


def test_a_file_that_changes_during_its_download_is_listed_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ObjectSource.list
    changes = [b"first", b"second"]

    def change(source: ObjectSource) -> Any:
        files = listed(source)
        if changes:
            store.put({"model.safetensors": changes.pop()})
        return files

    monkeypatch.setattr(ObjectSource, "list", change)
    assert _files(fetch(store.settings()).folder)["model.safetensors"] == b"first"
    store.put({"config.json": b"{}"})
    changes[:] = [bytes([each]) for each in range(10)]
    assert "changes while it is read" in _refusal(store.settings())


def test_a_damaged_file_is_fetched_again_and_refused_the_second_time(s3: Store) -> None:
    weights, key = MODEL["model.safetensors"], s3.key("model.safetensors")
    s3.fake.altered[key] = [weights[::-1], b"x" * len(weights)]
    assert "model.safetensors came damaged twice (md5 differs)" in _refusal(s3.settings())
    s3.fake.altered[key] = [weights[::-1]]
    assert (fetch(s3.settings()).folder / "model.safetensors").read_bytes() == weights


def test_etags_that_are_no_digests_cost_only_one_small_file(s3: Store) -> None:
    # ETags of objects that are encrypted with a key of the operator's.
    for name in FETCHED:
        s3.fake.altered[s3.key(name)] = [MODEL[name][::-1]] * 2
    assert (fetch(s3.settings()).folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"][::-1]
    assert s3.fake.downloads().count(s3.key("1_Pooling/config.json")) == 2
    assert s3.fake.downloads().count(s3.key("model.safetensors")) == 1


def test_without_any_identity_the_error_names_the_setting_for_public_buckets_which_works(s3: Store) -> None:
    options = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert "awsAnonymousCredential=true if anyone may" in _refusal(s3.settings(options=options))
    fetch(s3.settings(options={**options, "awsAnonymousCredential": "true"}))
    assert not any("authorization" in headers for headers in s3.fake.headers)


def test_half_a_pair_of_keys_is_refused(s3: Store) -> None:
    assert "set both" in _refusal(s3.settings(options={"AWS_SECRET_ACCESS_KEY": ""}))


def test_a_session_token_is_sent(s3: Store) -> None:
    fetch(s3.settings(options={"AWS_SESSION_TOKEN": "session"}))
    assert all(headers["x-amz-security-token"] == "session" for headers in s3.fake.headers)


@pytest.mark.parametrize(
    "options",
    [
        {"AWS_ENDPOINT_URL_S3": "{url}", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        {"AWS_ENDPOINT_URL": "", "S3_ENDPOINT": "{host}", "S3_USE_HTTPS": "0"},
        {"AWS_ENDPOINT_URL": "{url}/"},
    ],
)
def test_the_endpoint_is_configured_as_in_kserve(s3: Store, options: dict[str, str]) -> None:
    host = s3.fake.url.removeprefix("http://")
    fetch(s3.settings(options={name: value.format(url=s3.fake.url, host=host) for name, value in options.items()}))
    assert s3.fake.downloads() != []


def test_the_same_bucket_name_at_another_endpoint_is_another_model(s3: Store) -> None:
    fetch(s3.settings())
    with fake_files.serving(BucketHandler) as other:
        other.status = 503
        assert "status 503" in _refusal(s3.settings(options={"AWS_ENDPOINT_URL": other.url}))


def test_a_missing_ca_bundle_is_named(s3: Store) -> None:
    assert "AWS_CA_BUNDLE: /none.pem cannot be read" in _refusal(s3.settings(options={"AWS_CA_BUNDLE": "/none.pem"}))


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "GOOGLE_BASE_URL"])
def test_a_public_bucket_of_google_needs_no_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, "127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    with fake_files.serving(BucketHandler) as fake:
        store = Store("gs", fake, tmp_path / "cache")
        fetch(store.settings(options={"GOOGLE_BEARER_TOKEN": "", "GOOGLE_BASE_URL": "", variable: fake.url}))
        assert not any("authorization" in headers for headers in fake.headers)


def test_an_account_file_of_google_is_read_or_named(tmp_path: Path) -> None:
    with fake_files.serving(BucketHandler) as fake:
        store = Store("gs", fake, tmp_path / "cache")
        file = tmp_path / "account.json"
        options = {"GOOGLE_BEARER_TOKEN": "", "GOOGLE_APPLICATION_CREDENTIALS": str(file)}
        assert f"GOOGLE_APPLICATION_CREDENTIALS: {file} does not exist" in _refusal(store.settings(options=options))
        file.write_text("{")
        assert "(GOOGLE_…) cannot be used" in _refusal(store.settings(options=options))


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("https://account.blob.core.windows.net/container/model?sv=1&sig=SIGNED", {"AZURE_STORAGE_ACCESS_KEY": ""}),
        ("az://container/model", {"AZURE_STORAGE_ACCESS_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=SIGNED",
                                  "AZURE_STORAGE_ACCOUNT_NAME": "account"}),
        ("abfss://container@account.dfs.core.windows.net/model",
         {"AZURE_STORAGE_ACCESS_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=SIGNED"}),
    ],
)  # fmt: skip
def test_azure_accepts_a_signature_in_the_url_or_in_a_variable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uri: str, options: dict[str, str]
) -> None:
    with fake_files.serving(AzureHandler) as fake:
        store = Store("azure", fake, tmp_path / "cache")
        with caplog.at_level(logging.DEBUG):
            fetch(store.settings(uri, options))
            assert all("sig=SIGNED" in query for query in fake.queries)
            fake.status = 403
            assert "SIGNED" not in _refusal(store.settings(uri, options))
        assert "SIGNED" not in caplog.text


def test_azure_without_a_key_sends_anonymous_requests(tmp_path: Path) -> None:
    with fake_files.serving(AzureHandler) as fake:
        store = Store("azure", fake, tmp_path / "cache")
        fetch(store.settings(options={"AZURE_STORAGE_ACCESS_KEY": ""}))
        assert not any("authorization" in headers for headers in fake.headers)
        message = _refusal(store.settings("az://container/model"))
        assert "set AZURE_STORAGE_ACCOUNT_NAME" in message


@pytest.mark.parametrize(
    ("uri", "form"),
    [
        ("s3://", "s3://bucket/path"),
        ("s3:///model", "s3://bucket/path"),
        ("s3://bucket/../other", "s3://bucket/path"),
        ("gs://", "gs://bucket/path"),
        ("az://", "az://container/path"),
        ("abfs://container@elsewhere/model", "abfs://container@account.dfs.core.windows.net/path"),
        ("https://account.blob.core.windows.net/", "https://account.blob.core.windows.net/container/path"),
    ],
)
def test_a_uri_of_another_form_is_refused_without_a_request(uri: str, form: str) -> None:
    with pytest.raises(LoadError) as refused:
        check_uri(ModelSettings(storage_uri=uri))
    assert str(refused.value).endswith(f"is not of the form {form}.")


def test_moto_accepts_the_requests_for_s3(tmp_path: Path) -> None:
    with fake_s3.serving() as server:
        odd = {"odd [é] name%.json": b"[]"}
        server.put("models", {f"a/b/{name}": content for name, content in {**MODEL, **odd}.items()})
        settings = ModelSettings(
            storage_uri="s3://models/a/b/",
            storage_options={name: SecretStr(value) for name, value in server.variables.items()},
            storage_cache=tmp_path,
        )
        assert _files(fetch(settings).folder) == {**{name: MODEL[name] for name in FETCHED}, **odd}
        assert fetch(settings.model_copy(update={"offline": True})) == fetch(settings)
        assert "there is no bucket none" in _refusal(settings.model_copy(update={"storage_uri": "s3://none/a"}))
