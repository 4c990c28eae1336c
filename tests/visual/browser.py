"""Pages as pictures: headless Chromium, and how much of a picture has a colour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

# The flags that keep Chromium from calling home, which a closed network answers with long waits.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
_TIMEOUT_S = 120


def chromium() -> str:
    """The browser; the test is skipped where there is none (`.ci/browser` installs it)."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs Chromium: .ci/browser installs Debian's")
    return found


def screenshot(url: str, png: Path, width: int = 1400, height: int = 1000) -> None:
    """Takes a picture of a page once its scripts have had 20 s of their own time."""
    profile = png.with_suffix(".profile")
    command = [
        chromium(),
        *_FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "--virtual-time-budget=20000",
        f"--screenshot={png}",
        url,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    assert png.exists(), done.stderr[-2000:]
    keep(png)


def keep(png: Path) -> None:
    """Copies a picture to the folder that TRACELET_TEST_PICTURES names, to be looked at."""
    folder = os.environ.get("TRACELET_TEST_PICTURES")
    if folder:
        os.makedirs(folder, exist_ok=True)
        shutil.copy(png, folder)
        print(f"kept {png.name} in {folder}", file=sys.stderr)


def colored_columns(png: Path, red: range, green: range, blue: range) -> list[int]:
    """How many pixels of a colour each column of the picture has."""
    image = Image.open(png).convert("RGB")
    width, height = image.size
    counts = [0] * width
    data = image.tobytes()
    for y in range(height):
        row = data[y * width * 3 : (y + 1) * width * 3]
        for x in range(width):
            r, g, b = row[3 * x], row[3 * x + 1], row[3 * x + 2]
            if r in red and g in green and b in blue:
                counts[x] += 1
    return counts
