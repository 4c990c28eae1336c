"""What a run runs in: command line, packages, Python, machine. No secret is in it."""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tracelet.redact import NUMBER, REDACTED, is_secret, is_secret_text, without_secrets

_LONGEST_WORD = 300
_LONGEST_LOOKED_AT = 4_000  # a word beyond it is hidden whole
_LONGEST_COMMAND = 2_000
_MOST_PACKAGES = 2_000
_MOST_ENTRIES = 20_000
_CODE = re.compile(r"-[A-VY-Za-z?]*?c")
_DISTRIBUTION = re.compile(r"(.+?)-([^-]+)(?:-.*)?\.(?:dist|egg)-info")
_NVIDIA = "/proc/driver/nvidia/gpus"
_MOST_GPUS = 64


def machine_and_program(
    working_folder: str, is_given_up: threading.Event | None = None
) -> dict[str, Any]:
    """All that is known at once, by name. `is_given_up`, set by any thread, cuts it short."""
    found: dict[str, Any] = {
        "command": command_line(),
        "folder": working_folder or "(gone)",
        "python": f"{platform.python_version()} ({sys.executable})",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": platform.node(),
        "cpus": _usable_cpus(),
        "packages": ", ".join(f"{name} {version}" for name, version in packages(is_given_up)),
    }
    if gpus := gpu_names():
        found["gpus"] = ", ".join(gpus)
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        found["cuda_visible_devices"] = chosen[:_LONGEST_WORD]
    return found


def program_folder(working_folder: str) -> str:
    """Where the script lies; the working folder where that is none of the user's own (`-m`, a
    notebook, a launcher that was installed). "" where neither is there any more."""
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    folder = os.path.dirname(os.path.join(working_folder, script)) if script else working_folder
    if not os.path.isabs(folder):  # the working folder is gone
        return ""
    installed = {os.path.realpath(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    real = os.path.realpath(folder)
    is_installed = "site-packages" in real or any(
        real == each or real.startswith(each + os.sep) for each in installed if each != os.sep
    )
    return working_folder if is_installed or not os.path.isdir(folder) else folder


def command_line(words: Sequence[str] | None = None) -> str:
    """As it was typed, without the values of options that are named like secrets: `--api-key X`,
    `--api-keys X Y`, `--set db.password=X`; and without code that was given by `-c`."""
    said: list[str] = []
    option, is_first = "", False  # the option named like a secret whose values come now
    for word in _words() if words is None else words:
        if option and _is_value(option, word, is_first):
            said.append(_shown(option, word))
            if said[-1] is not REDACTED:  # a number: those that follow are no secrets either
                option = ""
            is_first = False
            # Of `--use-auth --password X` the second is hidden as a value, and still has one.
            if word.startswith("--") and is_secret(word):
                option, is_first = word, True
        else:
            said.append(without_secrets(word)[:_LONGEST_WORD] if _is_short(word) else REDACTED)
            is_option = re.fullmatch(r"-[^=:]*", word) is not None and is_secret(word)
            option, is_first = (word, True) if is_option else ("", False)
        if len(said) > _LONGEST_COMMAND:
            break
    return " ".join(said)[:_LONGEST_COMMAND]


def _words() -> list[str]:
    words = list(getattr(sys, "orig_argv", None) or [])
    given = list(getattr(sys, "argv", []))
    if given[:1] == ["-c"] or _has_code(words):
        return [sys.executable, "-c", "(code)", *given[1:]]
    return words or [sys.executable, *given]


def _has_code(words: Sequence[str]) -> bool:
    """Whether one of Python's own options, before the script, is `-c`: `-uc CODE`, `-cCODE`. Who
    sets `sys.argv` anew (multiprocessing, a launcher) takes the "-c" out of it."""
    for word in words[1:]:
        if not word.startswith("-") or word in ("-m", "-"):
            return False
        if _CODE.match(word):
            return True
    return False


def _is_short(word: str) -> bool:
    return len(word) <= _LONGEST_LOOKED_AT


def _is_value(option: str, word: str, is_first: bool) -> bool:
    """Whether it is a value of the option before it. A secret may begin with "-"."""
    if not word.startswith("-") or NUMBER.fullmatch(word):
        return True
    return is_first and (not word.startswith("--") or is_secret(option, is_number=True))


def _shown(option: str, word: str) -> str:
    """A value of an option: of `--max-tokens 512` it is a number, and no secret."""
    return REDACTED if is_secret_text(option, word) else word


def packages(is_given_up: threading.Event | None = None) -> list[tuple[str, str]]:
    """Names and versions of what is installed, sorted: from the names of folders alone, which
    costs a thousandth of reading what lies in them. The first of two has it, as in an import."""
    found: dict[str, tuple[str, str]] = {}
    for folder in list(sys.path):
        if not isinstance(folder, (str, bytes)):  # Python itself leaves it out
            continue
        for name, version in _installed_in(os.fsdecode(folder)):
            found.setdefault(name.lower().replace("_", "-"), (name, version))
            if len(found) >= _MOST_PACKAGES:
                break
        if is_given_up is not None and is_given_up.is_set():
            break
    return [found[name] for name in sorted(found)]


def _installed_in(folder: str) -> Iterator[tuple[str, str]]:
    """A script may lie beside a million files: no more than some are looked at, and of most of
    them the end alone, since what the pattern takes grows with the square of a name's length."""
    try:
        with os.scandir(folder or ".") as entries:
            for entry in itertools.islice(entries, _MOST_ENTRIES):
                if not entry.name.endswith("-info"):
                    continue
                if match := _DISTRIBUTION.fullmatch(entry.name):
                    yield match[1], match[2]
    except (OSError, ValueError):  # a zip file, or not there
        return


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
