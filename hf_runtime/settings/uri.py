"""Storage URIs: their scheme, and a form without secrets for messages and logs."""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_USER = re.compile(r"(?<=://)[^/\s@\"']*@")
_QUERY = re.compile(r"\?[^\s\"'<>]*")
#: Query parameters that only grant access: a link that is signed again still leads to the same file.
_SIGNATURE = re.compile(
    r"(?i)x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|key-pair-id|policy|"
    r"s[verpst]|sip|spr|srt|sig|skoid|sktid|skt|ske|sks|skv|token|access_token"
)


def scheme_of(uri: str) -> str:
    """Return the part before `://`; empty for a local path."""
    return uri.split("://", 1)[0] if "://" in uri else ""


def is_local(uri: str) -> bool:
    """Return whether the model is on this machine or on a mounted volume."""
    return scheme_of(uri) in ("", "file", "pvc", "bentoml")


def shown_uri(uri: str) -> str:
    """Return the URI without user, password and query, for messages and logs.

    Each of the removed parts may be a secret.
    """
    if is_local(uri):
        return uri
    # The part before the @ of an abfs:// URI is the container, not a user.
    return _QUERY.sub("", uri if scheme_of(uri) in ("abfs", "abfss") else _USER.sub("", uri))


def unsigned_uri(uri: str) -> str:
    """Return the URI without credentials and signatures: equal for all links to the same file."""
    if scheme_of(uri) not in ("http", "https"):
        return uri
    parts = urlsplit(_USER.sub("", uri))
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _SIGNATURE.fullmatch(name)]
    return parts._replace(query=urlencode(query), fragment="").geturl()


class _UnsignedUrls(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _USER.sub("", _QUERY.sub("", record.getMessage())), None
        return True


def redact_logged_urls(*loggers: str) -> None:
    """Remove users and queries from the URLs that these loggers log.

    A signed link grants access as a password does.
    """
    for name in loggers:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _UnsignedUrls) for known in logger.filters):
            logger.addFilter(_UnsignedUrls())
