"""Names that W&B takes."""

from __future__ import annotations

import hashlib
import re

from tracelet.backends.artifact import flat_name
from tracelet.backends.wandb.log_file import ROW

STEP = "global_step"
"""The column with the user's step."""

_OF_WANDB = frozenset(("_step", "_timestamp", "_runtime", "_wandb", STEP))
_LONGEST = 1_000
_LONGEST_PROJECT, _LONGEST_TAG, _LONGEST_ARTIFACT = 128, 64, 128


def clean_name(name: str) -> str:
    """A tag as W&B takes it: UTF-8, not empty, and none of its own or of our columns."""
    clean = name.encode("utf-8", "replace").decode().replace("\0", "�")
    if not clean.strip() or clean in _OF_WANDB or clean.startswith(ROW):
        return f"tag {clean}"
    if len(clean) > _LONGEST:
        clean = f"{clean[: _LONGEST - 17]}-{_digest(name)}"
    return clean


def project_name(name: str) -> str:
    return re.sub(r"[/\\#?%:\0]", "-", name)[:_LONGEST_PROJECT]


def tag_names(tags: list[str]) -> list[str]:
    return [tag[:_LONGEST_TAG] for tag in dict.fromkeys(tags) if tag]


def artifact_name(name: str) -> str:
    return flat_name(name, _LONGEST_ARTIFACT)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
