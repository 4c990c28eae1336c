"""Names that MLflow takes: letters, digits, "_-. :/", a normalised path, 250 characters."""

from __future__ import annotations

import hashlib
import posixpath
import re

_REFUSED = re.compile(r"[^/\w.\- :]")
_LONGEST = 250


def clean_name(name: str) -> str:
    """The name itself, or a form of it that MLflow takes and a person still recognises."""
    clean = _REFUSED.sub("_", name)
    if posixpath.normpath(clean) != clean or clean.startswith(("/", "..")) or clean == ".":
        parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
        clean = "/".join(parts) or "_"
    if len(clean) > _LONGEST:
        digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
        clean = f"{clean[: _LONGEST - 17].rstrip('/')}-{digest}"
    return clean
