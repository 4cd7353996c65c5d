"""Promise: messages and logs never show the credentials of a model's URI."""

from __future__ import annotations

import pytest

from hf_runtime.settings.uri import shown_uri, unsigned_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/models/a?b", "/models/a?b"),
        ("file:///models/a", "file:///models/a"),
        ("hf://owner/model:v1", "hf://owner/model:v1"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("https://user:password@host:8443/a.zip?X-Amz-Signature=secret", "https://host:8443/a.zip"),
        ("https://account.blob.core.windows.net/c/a?sv=1&sig=secret", "https://account.blob.core.windows.net/c/a"),
        ("hf://user:secret@owner/model", "hf://owner/model"),
    ],
)
def test_a_uri_is_shown_without_secrets(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


def test_links_to_the_same_file_are_equal_without_their_signatures() -> None:
    links = [
        "https://host/a.zip?file=1&X-Amz-Signature=a&X-Amz-Date=b&X-Amz-Expires=c",
        "https://user:password@host/a.zip?file=1&sv=1&sig=2&se=3&sp=r&sr=b",
        "https://host/a.zip?file=1&Expires=1&Signature=2&Key-Pair-Id=3",
    ]
    assert {unsigned_uri(link) for link in links} == {"https://host/a.zip?file=1"}
