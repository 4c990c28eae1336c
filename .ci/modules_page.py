"""Writes docs/modules.md: each module of the package and each header of the core, with the first
sentence that its own text begins with. A test looks whether the page is as the code is.

    python .ci/modules_page.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "modules.md"
HEAD = """# Modules

Written by `.ci/modules_page.py` from what each file says of itself. Layers import downwards only:
see [Architecture](architecture.md), and the contracts in `pyproject.toml`, which CI checks.
"""


def page() -> str:
    parts = [HEAD]
    package = ROOT / "python" / "tracelet"
    folders = [package, *sorted(path for path in package.rglob("*") if path.is_dir())]
    for folder in folders:
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if files:
            name = folder.relative_to(package.parent).as_posix()
            says = _first_sentence_of_python(folder / "__init__.py")
            parts.append(_table(f"`{name}/`", says if folder != package else "", files))
    for folder in (ROOT / "cpp" / "tracelet", ROOT / "cpp" / "tracelet" / "histogram",
                   ROOT / "cpp" / "bindings"):  # fmt: skip
        # A header where there is one: it says what the other file does.
        files = sorted(folder.glob("*.h"))
        headers = {path.stem for path in files}
        files += sorted(path for path in folder.glob("*.cpp") if path.stem not in headers)
        parts.append(_table(f"`{folder.relative_to(ROOT).as_posix()}/`", "", sorted(files)))
    return "\n".join(parts)


def _table(title: str, says: str, files: list[Path]) -> str:
    lines = [f"## {title}", ""]
    if says:
        lines += [says, ""]
    lines += ["| file | what it is |", "|---|---|"]
    for path in files:
        first = _first_sentence_of_python(path) if path.suffix == ".py" else _of_header(path)
        lines.append(f"| `{path.name}` | {first} |")
    return "\n".join(lines) + "\n"


def _first_sentence_of_python(path: Path) -> str:
    return _first_sentence(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")


def _of_header(path: Path) -> str:
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[2:].strip())
    return _first_sentence("\n".join(lines))


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.:])\s", paragraph)[0].rstrip(":.")
    return sentence.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
