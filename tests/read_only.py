"""Folders that can't be written, also by root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def read_only(folder: Path) -> list[str]:
    """A command prefix under which nothing in the folder can be written."""
    if os.getuid() != 0:
        for path in (*folder.iterdir(), folder):
            path.chmod(0o500)
        return []
    mount = f"mount --bind -o ro '{folder}' '{folder}' && exec \"$@\""
    prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("root can write everywhere, and no file system can be mounted here")
    return prefix
