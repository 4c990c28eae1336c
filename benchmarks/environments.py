"""`python -m benchmarks.environments`: the rivals that would change our own environment's packages.

Each has an environment of its own, `.venvs/bench-NAME`, made from the dependency group of the same
name in pyproject.toml, which pins its version. One that can't be installed here is remembered with
the reason, and is a line of the report.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("wandb", "mlflow", "aim", "trackio")
_TIMEOUT_S = 900
_FOLDER = ROOT / ".venvs"


def python_of(name: str) -> str:
    """The environment's interpreter. Raises LookupError with the reason when there is none."""
    folder = _FOLDER / f"bench-{name}"
    if not folder.exists():
        raise LookupError("not installed; python -m benchmarks.environments does it")
    failure = folder / "failed.txt"
    if failure.exists():
        raise LookupError(failure.read_text())
    return str(folder / "bin" / "python")


def versions() -> dict[str, str]:
    """Versions of the rivals that are installed, by name."""
    found = {}
    for name in NAMES:
        for info in (_FOLDER / f"bench-{name}").glob(f"lib/*/site-packages/{name}-*.dist-info"):
            found[name] = info.name[len(name) + 1 : -len(".dist-info")]
    return found


def install(name: str) -> None:
    """Makes the environment anew; what pip says when it fails is kept in it."""
    folder = _FOLDER / f"bench-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    try:
        # Groups are known to pip 25.1 and later.
        for what in (["--upgrade", "pip"], ["--group", f"pyproject.toml:bench-{name}"]):
            subprocess.run(
                [*pip, "install", *what],
                cwd=ROOT, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S,
            )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        errors = re.findall("^ERROR: (.*)$", str(error.stderr), re.MULTILINE)
        (folder / "failed.txt").write_text(f"can't be installed here: {(errors or [error])[0]}")


def main() -> int:
    for name in sys.argv[1:] or NAMES:
        if not (_FOLDER / f"bench-{name}").exists():
            install(name)
        try:
            print(f"{name}: {python_of(name)}, {versions().get(name, 'unknown version')}")
        except LookupError as error:
            print(f"{name}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
