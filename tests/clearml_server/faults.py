"""Failures on demand: what a test tells the server to do wrong, and when."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class FaultMode(str, Enum):
    """How a request goes wrong. Unless said otherwise nothing of it takes effect."""

    BAD_REQUEST = "400"
    EXPIRED_TOKEN = "401"
    """The token that came with the request is no longer valid: the client must log in again."""
    TOO_LARGE = "413"
    """As the proxy in front of the server says it: an HTML page, no envelope."""
    TOO_MANY_REQUESTS = "429"
    """With a Retry-After header of `retry_after` seconds."""
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    """HTML, like 413."""
    UNAVAILABLE = "503"
    """HTML, like 413."""
    CLOSE_BEFORE = "close before"
    """The connection is closed instead of an answer."""
    CLOSE_AFTER = "close after"
    """The request takes effect, then the connection is closed: the client can't know."""
    HALF_ANSWER = "half answer"
    """The request takes effect; half of the answer is sent, then the connection is closed."""
    SLOW = "slow"
    """The request takes effect; the answer comes `delay` seconds later."""


@dataclass
class Fault:
    """One rule of a plan."""

    mode: FaultMode
    endpoints: frozenset[str] | None = frozenset({"events.add_batch"})
    """Endpoints it applies to; None for all."""
    probability: float = 1.0
    """How likely a matching request is hit."""
    times: int | None = None
    """How many more requests it hits; None for no end."""
    delay: float = 1.0
    """Seconds, for SLOW."""
    retry_after: int = 1
    """Seconds, for TOO_MANY_REQUESTS."""

    def matches(self, endpoint: str) -> bool:
        return self.times != 0 and (self.endpoints is None or endpoint in self.endpoints)


@dataclass
class FaultPlan:
    """The rules in force, and what they did. Safe to change while requests come in.

    A seeded plan hits the same requests in every run, as long as they come in the same order.
    """

    seed: int = 0
    injected: list[tuple[str, FaultMode]] = field(default_factory=list)
    """(endpoint, mode) of every request that was hit, in order."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._rules: list[Fault] = []

    def add(
        self,
        mode: FaultMode | str,
        *,
        times: int | None = None,
        probability: float = 1.0,
        endpoints: Iterable[str] | None = ("events.add_batch",),
        delay: float = 1.0,
        retry_after: int = 1,
    ) -> Fault:
        """Adds a rule; of several that match, the first one that hits is used."""
        fault = Fault(
            mode=FaultMode(mode),
            endpoints=None if endpoints is None else frozenset(endpoints),
            probability=probability,
            times=times,
            delay=delay,
            retry_after=retry_after,
        )
        with self._lock:
            self._rules.append(fault)
        return fault

    def clear(self) -> None:
        """Drops every rule; `injected` stays."""
        with self._lock:
            self._rules.clear()

    def choose(self, endpoint: str) -> Fault | None:
        """The fault for one request to `endpoint`, counted as used; None to serve it normally."""
        with self._lock:
            for fault in self._rules:
                if fault.matches(endpoint) and self._random.random() < fault.probability:
                    if fault.times is not None:
                        fault.times -= 1
                    self.injected.append((endpoint, fault.mode))
                    return fault
        return None
