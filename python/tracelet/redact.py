"""Secrets are not written down: what is named like one, and what stands in a URL."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "(redacted)"
_ALWAYS = frozenset(
    ("secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "apikey",
     "credential", "credentials", "authorization", "bearer", "cookie", "cookies", "jwt")
)  # fmt: skip
_KEYS = frozenset(("key", "keys", "token", "tokens"))
_ENDS = ("token", "apikey", "accesskey", "secretkey", "authkey", "privatekey", "sshkey", "secret",
         "password", "passwd", "passphrase")  # fmt: skip
"""Of a word that is two, in a name that nothing parts: "hftoken", "accesskey"."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# A password may have an "@" in it, and "?" and "#": the host begins behind the last "@".
_IN_URL = re.compile(r"(\w+://)(?:[^/\s:?#]*:[^/\s]+|[^/\s?#]+)@")


def redacted(name: str, value: Any) -> Any:
    """The value, or REDACTED in its place where the name is that of a secret.

    "api_key", "hfToken" and "db.password" are such names. A number is shown unless the name ends
    in "key" or "token": "max_tokens" and "num_key_value_heads" are no secrets.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    is_number = value is None or isinstance(value, (bool, int, float))
    is_secret = any(
        word in _ALWAYS or (word not in _KEYS and word.endswith(_ENDS)) for word in words
    )
    if is_secret or words[-1:] in (["key"], ["token"]):
        return value if value is None or isinstance(value, bool) else REDACTED
    if not is_number and (words[-1:] == ["pass"] or any(word in _KEYS for word in words)):
        return REDACTED
    return without_user(value) if isinstance(value, str) else value


def bare_url(url: str) -> str:
    """A URL without a user and password, good for use."""
    return _IN_URL.sub(r"\1", url)


def without_user(text: str) -> str:
    """A text whose URLs have no user and password any more."""
    return _IN_URL.sub(rf"\1{REDACTED}@", text) if "://" in text else text
