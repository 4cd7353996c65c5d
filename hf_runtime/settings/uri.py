"""Storage URIs: their scheme, and how they are shown without the passwords and signatures that some carry."""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_USER = re.compile(r"(?<=://)[^/\s@\"']*@")
_QUERY = re.compile(r"\?[^\s\"'<>]*")
#: Parts of a query that only say who may read: a link that was signed again still leads to the same file.
_SIGNATURE = re.compile(
    r"(?i)x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|key-pair-id|policy|"
    r"s[verpst]|sip|spr|srt|sig|skoid|sktid|skt|ske|sks|skv|token|access_token"
)


def scheme_of(uri: str) -> str:
    """What stands before `://`; empty for a local path."""
    return uri.split("://", 1)[0] if "://" in uri else ""


def is_on_disk(uri: str) -> bool:
    """Whether the model is served from where it is, on this machine or a volume."""
    return scheme_of(uri) in ("", "file", "pvc", "bentoml")


def shown_uri(uri: str) -> str:
    """The URI for messages and logs: without user, password and query, any of which may be a secret."""
    if is_on_disk(uri):
        return uri
    # What stands before the @ of an abfs:// URI is no user, but the container.
    return _QUERY.sub("", uri if scheme_of(uri) in ("abfs", "abfss") else _USER.sub("", uri))


def unsigned_uri(uri: str) -> str:
    """The URI without what only says who may read, such as a signature: equal for links to the same file."""
    if scheme_of(uri) not in ("http", "https"):
        return uri
    parts = urlsplit(_USER.sub("", uri))
    query = [(name, value) for name, value in parse_qsl(parts.query) if not _SIGNATURE.fullmatch(name)]
    return parts._replace(query=urlencode(query), fragment="").geturl()


class _Unsigned(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _USER.sub("", _QUERY.sub("", record.getMessage())), None
        return True


def hide_signatures(*loggers: str) -> None:
    """Cut users and queries off the URLs that a library logs; a signed link is as good as a password."""
    for name in loggers:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Unsigned) for known in logger.filters):
            logger.addFilter(_Unsigned())
