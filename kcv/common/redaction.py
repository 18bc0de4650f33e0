"""Removes secrets from URLs, commands and messages before they are stored, logged or sent.

Users, passwords and tokens precede the host (`//user:password@host`) or are in the query (`?X-Amz-Signature=...`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_DATABASES = r"(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|sqlite|cockroachdb|redshift|snowflake)(?:\+\w+)?"
_WITH_USERS = rf"(?!sqlite){_DATABASES}"  # the path of an SQLite file may contain an @
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")
"""Schemes in which the text before the @ is part of the address."""
_SECRET_KEYS = (
    r"[^=&#\s]*(?:pass|pwd|token|secret|credential|odbc_connect|signature|api_?key|access_?key|authorization)[^=&#\s]*"
    r"|sig|key|auth|sas"
)


def without_credentials(uri: str) -> str:
    """Returns a store's URI without user, password and secret options; the URI of an SQLite file stays unchanged."""
    if re.match(r"(?i)sqlite[:+]", uri):
        return uri
    uri = re.sub(r"://[^/?#]*@", "://", uri, count=1)
    if re.match(rf"(?i){_WITH_USERS}:", uri):  # a password may contain any character
        options = re.search(r"\?[^@]*$", uri)
        end = options.start() if options else len(uri)
        uri = re.sub(r"//.*@", "//", uri[:end], count=1, flags=re.DOTALL) + uri[end:]
    else:
        uri = _without_odd_password(uri)
    return _without_options(uri)


def data_without_credentials(source: str) -> str:
    """Returns a data URL without user and query, so that it can be stored; other text stays unchanged.

    Example:
        >>> data_without_credentials("https://me@host/x.parquet?X-Amz-Signature=abc")
        'https://host/x.parquet'
    """
    if "://" not in source:
        return source
    return "::".join(_part_without_credentials(part) for part in source.split("::"))


def _part_without_credentials(part: str) -> str:
    scheme, sign, rest = part.partition("://")
    if not sign:
        return part
    web = scheme.lower() in ("http", "https", "ftp", "webdav")
    # In other schemes, a ? may be a wildcard for one character of a file name.
    query = re.search(r"[?#]" if web else r"[?#][^?#]*=", rest)
    if not (scheme.lower() in _CONTAINERS and ":" not in rest.partition("@")[0]):
        host = re.match(r"[^/?#]*@", rest)
        rest_from = host.end() if host else 0
        if host is None and (odd := _without_odd_password(f"x://{rest}")) != f"x://{rest}":
            return _part_without_credentials(f"{scheme}{odd[1:]}")
        if query is not None and query.start() < rest_from:
            query = None
        rest_end = query.start() if query else len(rest)
        return f"{scheme}://{rest[rest_from:rest_end]}"
    return f"{scheme}://{rest[: query.start()] if query else rest}"


def hide_credentials(text: str) -> str:
    """Removes user, password and secret options from the URLs in a text, such as a message or a command."""
    text = re.sub(rf"(?i)\b({_WITH_USERS}://)[^\s'\"]*@", r"\1", text)
    text = re.sub(r"://[^/?#\s]*@", "://", text)
    text = _without_odd_password(text)
    # The options of a database URL are informative; treat those of all other URLs as secret.
    text = re.sub(rf"(?i)\b(?!{_DATABASES}:)([a-z][a-z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"?]*=[^\s'\"]*", r"\1", text)
    return _without_options(text)


def command(words: Sequence[str]) -> str:
    """Returns a command line without secrets, so that it can be stored."""
    return hide_credentials(shlex.join(hide_credentials(_word(word)) for word in words))


def _word(word: str) -> str:
    """Removes the password from one word of a command; within one word, it may contain spaces and quotes."""
    word = re.sub(rf"(?is)\b({_WITH_USERS}://).*@", r"\1", word)
    return re.sub(r"(?s)^((?:-[^=]*=)?https?://[^/?#@]*:(?!\d*(?:[/?#]|$))).*@", lambda found: _start(found[1]), word)


def _start(text: str) -> str:
    return text[: text.index("//") + 2]


def _without_odd_password(text: str) -> str:
    """Removes users with a slash or similar in their password: the text after the colon is then not a port."""
    return re.sub(r"(://)[^/?#@:\s'\"]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"]*@", r"\1", text)


def _without_options(text: str) -> str:
    before = ""
    while text != before:  # two consecutive options share the & between them
        before = text
        pattern = rf"(?i)([?&#])(?:{_SECRET_KEYS})=[^&#\s'\"]*(&?)"
        text = re.sub(pattern, lambda found: found[1] if found[2] else "", text)
    return text
