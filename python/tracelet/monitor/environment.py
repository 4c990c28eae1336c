"""What a run runs in: command line, packages, Python, machine. No secret is in it."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tracelet.redact import REDACTED, redacted, without_user

_LONGEST_WORD = 300
_LONGEST_COMMAND = 2_000
_MOST_PACKAGES = 2_000
_NUMBER = re.compile(r"[-+]?\d[\d_]*(\.\d*)?([eE][-+]?\d+)?")
_DISTRIBUTION = re.compile(r"(.+?)-([^-]+)(?:-.*)?\.(?:dist|egg)-info")
_NVIDIA = "/proc/driver/nvidia/gpus"
_MOST_GPUS = 64


def machine_and_program(working_folder: str) -> dict[str, Any]:
    """All that is known at once, by name."""
    found: dict[str, Any] = {
        "command": command_line(),
        "folder": working_folder,
        "python": f"{platform.python_version()} ({sys.executable})",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": platform.node(),
        "cpus": _usable_cpus(),
        "packages": ", ".join(f"{name} {version}" for name, version in packages()),
    }
    if gpus := gpu_names():
        found["gpus"] = ", ".join(gpus)
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        found["cuda_visible_devices"] = chosen[:_LONGEST_WORD]
    return found


def program_folder(working_folder: str) -> str:
    """Where the script lies; the working folder where that is none of the user's own (`-m`, a
    notebook, a launcher that was installed)."""
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    folder = os.path.dirname(os.path.join(working_folder, script)) if script else working_folder
    installed = {os.path.realpath(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    real = os.path.realpath(folder)
    is_installed = "site-packages" in real or any(
        real == each or real.startswith(each + os.sep) for each in installed if each != os.sep
    )
    return working_folder if is_installed or not os.path.isdir(folder) else folder


def command_line(words: Sequence[str] | None = None) -> str:
    """As it was typed, without the values of options that are named like secrets: `--api-key X`,
    `--api-key=X`, `db.password=X`; and without code that was given by `-c`."""
    if words is None:
        words = list(getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv])
        if sys.argv[:1] == ["-c"] and "-c" in words[:-1]:
            words[words.index("-c") + 1] = "(code)"
    said, option = [], ""
    for word in words:
        if option and _is_value(option, word):
            shown = _shown(option, word)
        elif "=" in word:
            name, _, value = word.partition("=")
            shown = f"{name}={_shown(name, value)}"
        else:
            shown = without_user(word)
        option = word if word.startswith("-") and "=" not in word else ""
        said.append(shown[:_LONGEST_WORD])
    return " ".join(said)[:_LONGEST_COMMAND]


def _is_value(option: str, word: str) -> bool:
    """Whether it is the value of the option before it. A secret may begin with "-"."""
    if not word.startswith("-") or _NUMBER.fullmatch(word):
        return True
    return not word.startswith("--") and redacted(option, word) is REDACTED


def _shown(name: str, text: str) -> str:
    """An option's value: `--max-tokens 512` is a number, and no secret."""
    if _NUMBER.fullmatch(text):
        return text if redacted(name, float(text.replace("_", ""))) is not REDACTED else REDACTED
    return str(redacted(name, text))


def packages() -> list[tuple[str, str]]:
    """Names and versions of what is installed, sorted: from the names of folders alone, which
    costs a thousandth of reading what lies in them. The first of two has it, as in an import."""
    found: dict[str, tuple[str, str]] = {}
    for folder in list(sys.path):
        for name, version in _installed_in(folder):
            found.setdefault(name.lower().replace("_", "-"), (name, version))
            if len(found) >= _MOST_PACKAGES:
                break
    return [found[name] for name in sorted(found)]


def _installed_in(folder: str) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(folder or ".")
    except OSError:  # a zip file, or not there
        return
    for name in names:
        if match := _DISTRIBUTION.fullmatch(name):
            yield match[1], match[2]


def gpu_names() -> list[str]:
    """As NVIDIA's driver says it: nothing is started on a device, no library is loaded."""
    found = []
    try:
        for name in sorted(os.listdir(_NVIDIA))[:_MOST_GPUS]:
            with open(os.path.join(_NVIDIA, name, "information"), encoding="utf-8") as file:
                model = [line for line in file if line.startswith("Model:")]
            found += [line.partition(":")[2].strip() for line in model]
    except (OSError, ValueError):
        return found
    return found


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
