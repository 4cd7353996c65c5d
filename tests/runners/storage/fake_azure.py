"""Container `container` of the account `account`, with the API of Azure's Blob service."""

from __future__ import annotations

from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from tests.runners.storage.fake_files import FilesHandler, etag


class AzureHandler(FilesHandler):
    """Handler that adds List Blobs; its files are `account/container/<name>`."""

    def other(self, path: str, query: str) -> None:
        """Answer a request for a list."""
        asked = parse_qs(query)
        if asked.get("comp") != ["list"]:
            return self.refuse(404, "BlobNotFound")
        if path != "account/container":
            return self.refuse(404, "ContainerNotFound")
        prefix = asked.get("prefix", [""])[0]
        files = {name.removeprefix(f"{path}/"): content for name, content in self.server_files.files.items()}
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified>"
            f"<Etag>{escape(etag(content))}</Etag><Content-Length>{len(content)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name, content in sorted(files.items())
            if name.startswith(prefix)
        )
        body = f'<?xml version="1.0"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>'
        self.answer(200, {"Content-Type": "application/xml"}, body.encode())
