"""The server as a pytest fixture; import it into a conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import ClearMLServer


@pytest.fixture
def clearml_server() -> Iterator[ClearMLServer]:
    """A fresh server. A bug of its own fails the test; what a client did wrong doesn't."""
    with ClearMLServer() as server:
        yield server
        assert not server.internal_errors
