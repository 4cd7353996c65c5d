"""Bucket `bucket` with the API that S3 and Google Cloud Storage share.

Its files are `bucket/<key>`.
"""

from __future__ import annotations

from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from tests.runners.storage.fake_files import FilesHandler, etag


class BucketHandler(FilesHandler):
    """Handler that adds the listing of version 2."""

    def other(self, path: str, query: str) -> None:
        """Answer a request for a list."""
        asked = parse_qs(query)
        if asked.get("list-type") != ["2"]:
            return self.refuse(404, "NoSuchKey")
        if path.rstrip("/") != "bucket":
            return self.refuse(404, "NoSuchBucket")
        prefix = asked.get("prefix", [""])[0]
        files = {name.removeprefix("bucket/"): content for name, content in self.server_files.files.items()}
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            for key, content in sorted(files.items())
            if key.startswith(prefix)
        )
        body = f'<?xml version="1.0"?><ListBucketResult>{contents}<IsTruncated>false</IsTruncated></ListBucketResult>'
        self.answer(200, {"Content-Type": "application/xml"}, body.encode())
