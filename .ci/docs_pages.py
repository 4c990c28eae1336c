"""mkdocs' hook: pages from outside of docs/, and links that lead out of what is published.

The Markdown files are written for people who read them in the repository. There a link may lead to
any file; on the site, to a page. A link to anything else becomes its text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for name, page in _PAGES.items():
        text = (_ROOT / name).read_text("utf-8")
        files.append(File.generated(config, page, content=_relink(text, _ROOT)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    if page.file.src_path in _PAGES.values():
        return markdown
    return _relink(markdown, Path(config["docs_dir"]))


def _relink(markdown: str, folder: Path) -> str:
    """Links that are right in a file of `folder`, for the site."""

    def link(match: re.Match[str]) -> str:
        is_image, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = (folder / path).resolve()
        if file.parent == _ROOT and file.name in _PAGES:
            page = _PAGES[file.name]
        elif (_ROOT / "docs") in file.parents:
            page = file.relative_to(_ROOT / "docs").as_posix()
        elif file.exists():
            return text
        else:
            return match[0]  # mkdocs complains
        return f"{is_image}[{text}]({page}{'#' + anchor if anchor else ''})"

    return _LINK.sub(link, markdown)
