"""Secrets are not written down: what is named like one, and what stands in a URL."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "(redacted)"
NUMBER = re.compile(r"[-+]?\d[\d_]*(\.\d*)?([eE][-+]?\d+)?")
_ALWAYS = frozenset(
    ("secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "apikey", "cred",
     "creds", "credential", "credentials", "authorization", "bearer", "cookie", "cookies", "jwt")
)  # fmt: skip
_KEYS = frozenset(("key", "keys", "token", "tokens"))
_LAST = frozenset(("pass", "pw", "auth", "pat", "sig", "signature"))
"""A name's last word: "db_pass", but no "pass_through"."""
_ENDS = ("token", "apikey", "accesskey", "secretkey", "authkey", "privatekey", "sshkey", "secret",
         "password", "passwd", "passphrase")  # fmt: skip
"""Of a word that is two, in a name that nothing parts: "hftoken", "accesskey"."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# A password may have an "@" in it, and "?" and "#": the host begins behind the last "@". With a "/"
# in it, too, unless what is before that is a port.
_IN_URL = re.compile(
    r"(\w{1,30}://)(?:[^/\s:?#]*:[^/\s]+|[^/\s:?#@]*:(?!\d*[/?#])[^\s'\",]+|[^/\s?#]+)@"
)
_IN_QUERY = re.compile(r"([?&;#])([\w.%-]+)=([^&;#\s'\"]+)")
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_SIGN = re.compile(r"""["'\])}]*\s*(?:=|:(?!//))\s*""")
_VALUE = re.compile(
    r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|"""
    # As far as the next name and value: a secret may have a blank or a comma in it.
    r"""(?:(?![,;&\s]\s*["'(\[{]*[A-Za-z_][\w.-]{0,99}["'\])}]*\s*[=:]).)+""",
    re.DOTALL,
)


def is_secret(name: str, is_number: bool = False) -> bool:
    """Whether a value of that name is one: "api_key", "hfToken", "db.password". Of a number only
    where the name ends in "key" or "token", or has a word as "password": "max_tokens" and
    "num_key_value_heads" are no secrets."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if words[-1:] in (["key"], ["token"]) or any(
        word in _ALWAYS or (word not in _KEYS and word.endswith(_ENDS)) for word in words
    ):
        return True
    return not is_number and (_ends_as_password(name) or any(word in _KEYS for word in words))


def _ends_as_password(name: str) -> bool:
    return any(word.lower() in _LAST for word in _WORDS.findall(name)[-1:])


def is_secret_text(name: str, text: str) -> bool:
    """The same of a value that is written: a `--pass 1234` is a password."""
    is_number = NUMBER.fullmatch(text) is not None
    return is_secret(name, is_number and not _ends_as_password(name))


def redacted(name: str, value: Any) -> Any:
    """The value, or REDACTED in its place where the name is that of a secret."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name, isinstance(value, (int, float))):
        return REDACTED
    return without_user(value) if isinstance(value, str) else value


def bare_url(url: str) -> str:
    """A URL without a user and password, good for use."""
    return _IN_URL.sub(r"\1", url)


def without_user(text: str) -> str:
    """A text whose URLs have no user and password any more, and no secret in their query."""
    if "://" not in text:
        return text
    return _IN_QUERY.sub(_in_query, _IN_URL.sub(rf"\1{REDACTED}@", text))


def _in_query(match: re.Match[str]) -> str:
    is_hidden = is_secret_text(match[2], match[3])
    return f"{match[1]}{match[2]}={REDACTED}" if is_hidden else match[0]


def without_secrets(text: str) -> str:
    """A short text without the values of all that is named like a secret in it: `a=1,token=X`,
    `{"api_key": "X"}`, `--api-key X`, `Authorization: Bearer X`. It hides too much sooner than too
    little."""
    text = without_user(text)
    shown, at = "", 0
    for match in _NAME.finditer(text):
        if match.start() < at:
            continue  # within a value that is hidden
        begins = _value_begins(text, match)
        if begins < 0:
            continue
        value = _VALUE.match(text, begins)
        if value is None or not is_secret_text(match[0], value[0]):
            continue
        shown += text[at:begins] + REDACTED
        at = value.end()
    return shown + text[at:]


def _value_begins(text: str, name: re.Match[str]) -> int:
    """Where the value of that name begins; -1 where it has none."""
    if sign := _SIGN.match(text, name.end()):
        return sign.end()
    is_named = text[: name.start()].endswith("-") or name[0].lower() in ("bearer", "basic")
    behind = text[name.end() :]
    return name.end() + len(behind) - len(behind.lstrip()) if is_named and behind[:1] == " " else -1
