"""Models in S3-compatible stores, Google Cloud Storage and Azure Blob Storage.

The client is obstore.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, PreconditionError

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from hf_runtime.settings.uri import shown_uri, unsigned_uri
from runners.storage.source import ChangedError, InterruptedReadError, SourceFile, UnreachableError
from runners.storage.stores import (
    Options,
    find_azure_account,
    find_endpoint,
    has_credentials,
    open_store,
    parse_location,
)

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta

#: Bytes of one chunk; if the answer is cut off, the incomplete chunk is lost.
_CHUNK = 2**16
_SINGLE_FILE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".gguf")
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
#: Requests of obstore for the credentials of the machine, which it sends if no others are set.
_METADATA = re.compile(r"/latest/api/token|/latest/meta-data|computeMetadata|/metadata/identity|token request")

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "ContainerBeingDeleted")
_WRONG_KEYS = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired",
    "AuthenticationFailed", "InvalidAuthenticationInfo", "InvalidSecurity", "InvalidClientTokenId",
)  # fmt: skip
_WRONG_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")


class ObjectSource:
    """Folder, archive or GGUF file in an object store.

    Raises:
        LoadError: the URI or a variable is wrong.
    """

    def __init__(self, settings: ModelSettings) -> None:
        uri = settings.storage_uri
        self._options = Options(settings.storage_options)
        self._location = parse_location(uri)
        self._store = open_store(self._location, self._options)
        self._single = False
        self.shown = shown_uri(uri)
        where = (find_endpoint(self._location, self._options), find_azure_account(self._location, self._options))
        self.identity = f"{unsigned_uri(uri)} {where}"

    @property
    def is_folder(self) -> bool:
        """True if the path is not named like an archive or a GGUF file; `ModelSource.is_folder`."""
        return not self._location.path.lower().endswith(_SINGLE_FILE_SUFFIXES)

    def list(self) -> Sequence[SourceFile]:
        """List the files below the path, or the file that it names; `ModelSource.list`."""
        try:
            return self._list_objects()
        except UnreachableError:
            if self._location.kind != "gs" or has_credentials(self._location, self._options):
                raise
        # As in KServe: without credentials the bucket may be public.
        self._store = open_store(self._location, self._options, anonymous=True)
        return self._list_objects()

    def is_single(self, files: Sequence[SourceFile]) -> bool:
        """Return True if the path names an archive or a GGUF file; `ModelSource.is_single`."""
        return self._single

    def read(self, file: SourceFile, start: int) -> tuple[int, Iterator[bytes]]:
        """Read an object from an offset; `ModelSource.read`."""
        options: GetOptions = {}
        if file.version is not None:
            options["if_match"] = file.version
        if start:
            options["range"] = {"offset": start}
        try:
            result = obstore.get(self._store, self._make_key(file.path), options=options)
        except (FileNotFoundError, PreconditionError):
            raise ChangedError from None
        except BaseError as error:
            raise self._make_load_error(error) from None
        return result.range[0], _iterate_chunks(result)

    def read_small(self, path: str) -> bytes | None:
        """Read a small object; `ModelSource.read_small`."""
        try:
            return bytes(obstore.get(self._store, self._make_key(path)).bytes())
        except FileNotFoundError as error:
            if _find_code(error) in _NO_BUCKET:
                raise self._make_load_error(error) from None
            return None
        except BaseError as error:
            raise self._make_load_error(error) from None

    def _make_key(self, path: str) -> str:
        prefix = self._location.path
        if self._single:
            return prefix
        return f"{prefix}/{path}" if prefix else path

    def _list_objects(self) -> Sequence[SourceFile]:
        prefix = self._location.path
        try:
            if not self.is_folder:
                try:
                    found = obstore.head(self._store, prefix)
                    self._single = True
                    return [self._make_file(found, PurePosixPath(prefix).name)]
                except FileNotFoundError:
                    # A folder may be named like a file.
                    pass
            listed = obstore.list(self._store, prefix or None, chunk_size=1000).collect()
        except InvalidPathError:
            raise LoadError(
                f"{self.shown} holds objects whose names are no paths of files, with // or ..: rename them."
            ) from None
        except (BaseError, FileNotFoundError) as error:
            raise self._make_load_error(error) from None
        files = [self._make_file(each, each["path"].removeprefix(prefix).lstrip("/")) for each in listed]
        # Skip folders: web consoles create an empty object for each.
        folders = {parent.as_posix() for file in files for parent in PurePosixPath(file.path).parents}
        files = [file for file in files if file.path and file.path not in folders]
        if not files:
            raise LoadError(f"{self.shown} holds nothing: check the path, which is one of a folder or an archive.")
        return files

    def _make_file(self, found: ObjectMeta, path: str) -> SourceFile:
        tag = found["e_tag"]
        md5 = _MD5.fullmatch(tag or "") if self._location.kind != "azure" else None
        # An ETag is an MD5 only for an object that was uploaded as a whole and is not encrypted with its own key.
        return SourceFile(path, found["size"], tag, ("md5", md5[1]) if md5 else None, digest_is_certain=False)

    def _make_load_error(self, error: Exception) -> LoadError:
        """Return an error with one sentence, without obstore's message.

        That message may contain a key or a signed URL.
        """
        text = str(error)
        code, status = _find_code(error), _find_status(text)
        bucket = self._location.bucket
        if _METADATA.search(text.split("Debug source:")[0]):
            return UnreachableError(f"no credentials for {self.shown} were found: {_HINTS[self._location.kind]}.")
        if code in _NO_BUCKET:
            return LoadError(f"{self.shown}: there is no bucket {bucket}: check its name, account and endpoint.")
        if code in _WRONG_REGION or status in (301, 307) or "without LOCATION" in text:
            return LoadError(f"{self.shown}: the bucket {bucket} is in another region: set AWS_DEFAULT_REGION to that.")
        if code in _WRONG_KEYS:
            return LoadError(f"{self.shown}: the keys are not valid ({code}): {_HINTS[self._location.kind]}.")
        if isinstance(error, PermissionDeniedError) or status in (401, 403):
            return LoadError(f"{self.shown} refuses access ({status or 403}): {_HINTS[self._location.kind]}.")
        if status == 404:
            return LoadError(f"{self.shown} does not exist: check the names of bucket and path.")
        if "UnknownIssuer" in text or "InvalidCertificate" in text or "invalid peer certificate" in text:
            return LoadError(f"{self.shown}: the certificate is not trusted here: set AWS_CA_BUNDLE to its authority.")
        where = find_endpoint(self._location, self._options)
        at = f" at {shown_uri(where)}" if where else ""
        if status is not None:
            answer = f"{self.shown}: the store{at} answered status {status}: try again later."
            return UnreachableError(answer) if status >= 500 or status in (408, 429) else LoadError(answer)
        return UnreachableError(f"{self.shown}: the store{at} cannot be reached: check the endpoint and the network.")


#: What to do about missing or wrong credentials.
_HINTS: Mapping[str, str] = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that may read it, or awsAnonymousCredential=true if "
    "anyone may",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to the file of an account that may read it",
    "azure": "set AZURE_STORAGE_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID, AZURE_TENANT_ID and "
    "AZURE_CLIENT_SECRET so that it may be read",
}


def _iterate_chunks(result: GetResult) -> Iterator[bytes]:
    try:
        yield from result.stream(_CHUNK)
    except (BaseError, OSError):
        raise InterruptedReadError from None


def _find_status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def _find_code(error: Exception) -> str | None:
    found = _CODE.search(str(error))
    return found[1] if found else None
