"""Secrets are not written down: what is named like one, and what stands in a URL."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "(redacted)"
_ALWAYS = frozenset(
    ("secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "apikey",
     "credential", "credentials")
)  # fmt: skip
_KEYS = frozenset(("key", "keys", "token", "tokens"))
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IN_URL = re.compile(r"(\w+://)[^/@\s?#]+@")


def redacted(name: str, value: Any) -> Any:
    """The value, or REDACTED in its place where the name is that of a secret.

    "api_key", "hfToken" and "db.password" are such names. A number is shown unless the name ends
    in "key" or "token": "max_tokens" and "num_key_value_heads" are no secrets.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    is_number = value is None or isinstance(value, (bool, int, float))
    if any(word in _ALWAYS for word in words) or (words and words[-1] in ("key", "token")):
        return value if value is None or isinstance(value, bool) else REDACTED
    if not is_number and any(word in _KEYS for word in words):
        return REDACTED
    return without_user(value) if isinstance(value, str) else value


def without_user(text: str) -> str:
    """A text whose URLs have no user and password any more."""
    return _IN_URL.sub(rf"\1{REDACTED}@", text) if "://" in text else text
