"""Which positions a journal holds, and where they lie: all of it that stays in memory.

A drain writes a block, four a second by default, however little is in it. Neighbours are therefore
remembered together, so that the index grows with the bytes of an outage, and not with its hours.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from tracelet.journal.format import Block

_JOINED_BYTES = 1 << 20  # read at once, for whatever position in it


@dataclass(frozen=True)
class Span:
    """Blocks that follow one another in a file, and in their positions."""

    first: int
    end: int
    path: str
    offset_bytes: int  # of the first block's header
    size_bytes: int

    @classmethod
    def of(cls, block: Block) -> Span:
        return cls(block.first, block.end, block.path, block.offset_bytes, block.size_bytes)

    def joined(self, block: Block) -> Span | None:
        """The span with the block behind it; None where it is no neighbour, or would be too big."""
        size_bytes = self.size_bytes + block.size_bytes
        follows = block.first == self.end and block.path == self.path
        if not follows or block.offset_bytes != self.offset_bytes + self.size_bytes:
            return None
        if size_bytes > _JOINED_BYTES:
            return None
        return Span(self.first, block.end, self.path, self.offset_bytes, size_bytes)


class JournalIndex:
    """Spans by position: their firsts and their ends both grow. The journal's lock guards it."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    @property
    def end(self) -> int:
        """The position after the last record; 0 without any."""
        return self._spans[-1].end if self._spans else 0

    def add(self, block: Block) -> None:
        """Takes a block that ends behind all others."""
        joined = self._spans[-1].joined(block) if self._spans else None
        if joined is not None:
            self._spans[-1] = joined
        else:
            self._spans.append(Span.of(block))
        self.size_bytes += block.size_bytes

    def at(self, position: int) -> Span | None:
        """The span that has the position."""
        span = next(self.from_position(position), None)
        return span if span and span.first <= position else None

    def from_position(self, position: int) -> Iterator[Span]:
        """Those that hold something from `position` on."""
        spans = self._spans
        numbers = range(self._number_at(position), len(spans))
        return (spans[number] for number in numbers if spans[number].end > position)

    def _number_at(self, position: int) -> int:
        """Of the last span that begins at `position` or before; 0 when none does."""
        return max(0, bisect.bisect_right(_Firsts(self._spans), position) - 1)

    def replace(self, span: Span, blocks: list[Block]) -> None:
        """Has only these blocks, in order, where it had the span."""
        if span not in self._spans:
            return
        number = self._spans.index(span)
        self._spans[number : number + 1] = [Span.of(block) for block in blocks]
        self.size_bytes += sum(block.size_bytes for block in blocks) - span.size_bytes

    def release(self, position: int) -> bool:
        """Forgets the spans that end at `position` or before; whether there were any."""
        count = 0
        while count < len(self._spans) and self._spans[count].end <= position:
            self.size_bytes -= self._spans[count].size_bytes
            count += 1
        del self._spans[:count]
        return count > 0

    def drop_file(self, path: str) -> None:
        self._spans = [span for span in self._spans if span.path != path]
        self.size_bytes = sum(span.size_bytes for span in self._spans)


class _Firsts:
    """The spans' first positions as a sequence, for bisect (its `key` is new in Python 3.10)."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> int:
        return self._spans[number].first
