"""What a config has for one tracker alone: config["wandb"], config["aim"]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelet.errors import ConfigurationError
from tracelet.option_kinds import describe, nearest


def checked(
    tracker: str, given: Mapping[str, Any] | None, known: Mapping[str, tuple[type, ...]]
) -> dict[str, Any]:
    """A copy of what is given. Raises ConfigurationError for a name that is not known, and for a
    value of another type."""
    own = dict(given or {})
    for key, value in own.items():
        if key not in known:
            near = nearest(key, list(known)) if isinstance(key, str) else None
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigurationError(f"config[{tracker!r}] has no option {key!r}; {hint}")
        if not isinstance(value, known[key]):
            wanted = "a bool" if bool in known[key] else "a str"
            raise ConfigurationError(
                f"config[{tracker!r}][{key!r}] must be {wanted}, not {describe(value)}"
            )
    return own
