"""Make an obstore client from a storage URI and the variables that users of KServe set.

obstore also reads its own variables, so the identities that a cluster gives to its pods (IRSA, workload identity,
instance metadata) work without any variable of this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store
from pydantic import SecretStr

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings.uri import scheme_of, shown_uri

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, RetryConfig, S3Config, S3Credential

Store = S3Store | GCSStore | AzureStore

#: An unreachable source should fail within seconds, because a copy in the cache may be used instead.
RETRIES: RetryConfig = {
    "max_retries": 4,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
    "retry_timeout": timedelta(minutes=3),
}

_AZURE_HOST = re.compile(r"(?P<account>[^.]+)\.(z\d{1,2}\.)?(blob\.core\.windows\.net|blob\.storage\.azure\.net)")
_AZURE_NETLOC = re.compile(r"(?P<container>[^@/]+)@(?P<account>[^.@/]+)\.(dfs|blob)\.core\.windows\.net")
_NO = ("0", "false", "no")
_YES = ("1", "true", "yes")


@dataclass(frozen=True, slots=True)
class Location:
    """Folder or object in an object store.

    Attributes:
        bucket: bucket or container.
        path: without slashes at its ends.
        account: Azure account; None if the URI does not name it.
        sas: signature of an Azure URL.
    """

    kind: Literal["s3", "gs", "azure"]
    bucket: str
    path: str
    account: str | None = None
    sas: str | None = None


def is_azure_url(uri: str) -> bool:
    """Return True if an https:// URL is one of Azure Blob Storage."""
    return scheme_of(uri) == "https" and _AZURE_HOST.fullmatch(urlsplit(uri).netloc) is not None


def parse_location(uri: str) -> Location:
    """Parse the URI of an object store.

    Raises:
        LoadError: the URI does not have the form of its scheme.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    path = "/".join(part for part in path.split("/") if part)
    location = None
    match scheme:
        case "s3" | "gs" if bucket:
            location = Location("s3" if scheme == "s3" else "gs", bucket, path)
        case "az" | "abfs" | "abfss" if bucket and "@" not in bucket:
            location = Location("azure", bucket, path)
        case "az" | "abfs" | "abfss" if match := _AZURE_NETLOC.fullmatch(bucket):
            location = Location("azure", match["container"], path, match["account"])
        case "https" if match := _AZURE_HOST.fullmatch(bucket):
            parts = urlsplit(uri)
            container, _, path = unquote(parts.path).strip("/").partition("/")
            if container:
                location = Location("azure", container, path.strip("/"), match["account"], parts.query or None)
    if location is None or ".." in location.path.split("/"):
        raise LoadError(f"STORAGE_URI: {shown_uri(uri)} is not of the form {_FORMS[scheme]}.")
    return location


_FORMS: Mapping[str, str] = {
    "s3": "s3://bucket/path",
    "gs": "gs://bucket/path",
    "https": "https://account.blob.core.windows.net/container/path",
    "az": "az://container/path",
    "abfs": "abfs://container@account.dfs.core.windows.net/path",
    "abfss": "abfss://container@account.dfs.core.windows.net/path",
}


class Options:
    """Variables of a model by their names; empty ones count as not set."""

    def __init__(self, values: Mapping[str, SecretStr]) -> None:
        self._values = values

    def get(self, *names: str) -> str | None:
        """Return the value of the first variable that is set; None if none is."""
        for name in names:
            if (value := self._values.get(name)) is not None and value.get_secret_value().strip():
                return value.get_secret_value().strip()
        return None

    def matches(self, name: str, words: tuple[str, ...]) -> bool:
        """Return True if the value of a variable is one of some words, ignoring case."""
        return (self.get(name) or "").lower() in words


def find_endpoint(location: Location, options: Options) -> str | None:
    """Return the URL of the store; None if it is the provider's own."""
    match location.kind:
        case "s3":
            return _find_s3_endpoint(options)
        case "gs":
            host = options.get("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST")
            return host if host is None or "://" in host else f"http://{host}"
        case "azure":
            return options.get("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_SERVICE_URL")


def find_azure_account(location: Location, options: Options) -> str | None:
    """Return the Azure account of the container; None if it is unknown."""
    return location.account or options.get("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")


def has_credentials(location: Location, options: Options) -> bool:
    """Return True if the variables set credentials, or set anonymous access."""
    names = {
        "s3": ("AWS_ACCESS_KEY_ID", "awsAnonymousCredential"),
        "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH",
               "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN", "STORAGE_EMULATOR_HOST"),
        "azure": ("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID",
                  "AZ_CLIENT_ID"),
    }[location.kind]  # fmt: skip
    return location.sas is not None or options.get(*names) is not None


def open_store(location: Location, options: Options, *, anonymous: bool = False) -> Store:
    """Make a client for the bucket, without connecting to it.

    Raises:
        LoadError: a variable is missing or invalid.
    """
    try:
        match location.kind:
            case "s3":
                return _open_s3(location, options)
            case "gs":
                return _open_gcs(location, options, anonymous)
            case "azure":
                return _open_azure(location, options)
    except (BaseError, ValueError):
        # The message of the error may contain the wrong key.
        prefixes = {"s3": "AWS_ and S3_", "gs": "GOOGLE_", "azure": "AZURE_"}
        raise LoadError(
            f"the variables for {location.kind} storage ({prefixes[location.kind]}…) cannot be used: check their form."
        ) from None


def _open_s3(location: Location, options: Options) -> S3Store:
    config: S3Config = {"region": options.get("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"}
    endpoint = _find_s3_endpoint(options)
    virtual = options.matches("S3_USER_VIRTUAL_BUCKET", _YES)
    if virtual:
        config["virtual_hosted_style_request"] = True
    if endpoint is not None:
        # For this style obstore expects the bucket in the host name.
        config["endpoint"] = endpoint.replace("://", f"://{location.bucket}.", 1) if virtual else endpoint
    key, secret = options.get("AWS_ACCESS_KEY_ID"), options.get("AWS_SECRET_ACCESS_KEY")
    client = _configure_client(endpoint, options.get("AWS_CA_BUNDLE"), verify=not options.matches("S3_VERIFY_SSL", _NO))
    if options.matches("awsAnonymousCredential", _YES):
        config["skip_signature"] = True
    elif key is not None or secret is not None:
        if key is None or secret is None:
            raise LoadError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are only valid together; set both.")
        # Pass all parts, so that obstore takes none of them from the environment.
        credential: S3Credential = {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": options.get("AWS_SESSION_TOKEN"),
            "expires_at": None,
        }
        return S3Store(
            location.bucket,
            config=config,
            client_options=client,
            retry_config=RETRIES,
            credential_provider=lambda: credential,
        )
    return S3Store(location.bucket, config=config, client_options=client, retry_config=RETRIES)


def _find_s3_endpoint(options: Options) -> str | None:
    endpoint = options.get("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT")
    if endpoint is not None and "://" not in endpoint:
        endpoint = f"{'http' if options.matches('S3_USE_HTTPS', _NO) else 'https'}://{endpoint}"
    # KServe's users set this endpoint for any region, but a bucket answers only at the endpoint of its region.
    return None if endpoint is None or endpoint.rstrip("/") == "https://s3.amazonaws.com" else endpoint.rstrip("/")


def _open_gcs(location: Location, options: Options, anonymous: bool) -> GCSStore:
    config: GCSConfig = {}
    endpoint = find_endpoint(location, options)
    if endpoint is not None:
        config["base_url"] = endpoint
    if anonymous or options.get("STORAGE_EMULATOR_HOST"):
        config["skip_signature"] = True
    elif file := options.get("GOOGLE_APPLICATION_CREDENTIALS"):
        if not Path(file).is_file():
            raise LoadError(f"GOOGLE_APPLICATION_CREDENTIALS: {file} does not exist.")
        config["application_credentials"] = file
    elif token := options.get("GOOGLE_BEARER_TOKEN"):
        config["bearer_token"] = token
    elif key := options.get("GOOGLE_SERVICE_ACCOUNT_KEY"):
        config["service_account_key"] = key
    elif file := options.get("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"):
        config["service_account"] = file
    return GCSStore(location.bucket, config=config, client_options=_configure_client(endpoint), retry_config=RETRIES)


def _open_azure(location: Location, options: Options) -> AzureStore:
    account = find_azure_account(location, options)
    if account is None:
        raise LoadError("the account of Azure is not known; set AZURE_STORAGE_ACCOUNT_NAME.")
    config: AzureConfig = {"account_name": account}
    endpoint = find_endpoint(location, options)
    if endpoint is not None:
        config["endpoint"] = endpoint
    sas = location.sas or options.get("AZURE_STORAGE_SAS_TOKEN")
    client_id = options.get("AZURE_CLIENT_ID", "AZ_CLIENT_ID")
    if sas is not None:
        config["sas_key"] = sas.removeprefix("?")
    elif key := options.get("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        config["account_key"] = key
    elif client_id is not None:
        config["client_id"] = client_id
        if tenant := options.get("AZURE_TENANT_ID", "AZ_TENANT_ID"):
            config["tenant_id"] = tenant
        if secret := options.get("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"):
            config["client_secret"] = secret
        if authority := options.get("AZURE_AUTHORITY_HOST"):
            config["authority_host"] = authority
        if file := options.get("AZURE_FEDERATED_TOKEN_FILE"):
            config["federated_token_file"] = file
    else:
        # As in KServe: a public container.
        config["skip_signature"] = True
    return AzureStore(location.bucket, config=config, client_options=_configure_client(endpoint), retry_config=RETRIES)


def _configure_client(endpoint: str | None, ca_bundle: str | None = None, *, verify: bool = True) -> ClientConfig:
    # A whole answer may be many GiB, so only the time without any data is limited.
    client: ClientConfig = {"timeout": timedelta(days=7), "read_timeout": timedelta(minutes=1)}
    if endpoint is not None and endpoint.startswith("http://"):
        client["allow_http"] = True
    if not verify:
        client["allow_invalid_certificates"] = True
    elif ca_bundle is not None:
        try:
            client["root_certificate"] = Path(ca_bundle).read_bytes()
        except OSError:
            raise LoadError(f"AWS_CA_BUNDLE: {ca_bundle} cannot be read.") from None
    return client
