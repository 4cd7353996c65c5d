"""Amazon's S3 on 127.0.0.1, served by moto, and the variables that lead to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
import requests
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

#: Secrets that no log may contain.
SECRET = "wJalr-a-secret-access-key"
_REGION = "eu-central-1"


@dataclass
class FakeS3:
    """Running store.

    Attributes:
        variables: variables that an operator sets.
    """

    url: str
    variables: dict[str, str]

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        """Add objects, and the bucket if there is none."""
        # moto keeps a bucket that is created again.
        place = (
            f"<CreateBucketConfiguration><LocationConstraint>{_REGION}</LocationConstraint></CreateBucketConfiguration>"
        )
        requests.put(f"{self.url}/{bucket}", data=place, timeout=10)
        store = S3Store(
            bucket,
            config={
                "endpoint": self.url,
                "region": _REGION,
                "access_key_id": self.variables["AWS_ACCESS_KEY_ID"],
                "secret_access_key": SECRET,
            },
            client_options={"allow_http": True},
        )
        for key, content in files.items():
            obstore.put(store, key, content)

    def add(self, bucket: str, prefix: str, folder: Path) -> None:
        """Add a folder's files under a prefix."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.put(bucket, {f"{prefix}/{name}": content for name, content in files.items()})


@contextmanager
def serving() -> Iterator[FakeS3]:
    """Run a store without buckets until the context is left."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        requests.post(f"{url}/moto-api/reset", timeout=10)
        yield FakeS3(
            url,
            {
                "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_ENDPOINT_URL": url,
                "AWS_DEFAULT_REGION": _REGION,
            },
        )
    finally:
        server.stop()
