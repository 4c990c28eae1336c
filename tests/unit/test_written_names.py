"""`names.bin` and what is written with it, where a system call takes only a part."""

from __future__ import annotations

import os

import pytest
from tracelet.journal import names as module
from tracelet.journal.names import NAMES, NamesFile, read_names, write_all


class Source:
    def __init__(self, *texts):
        self.texts = list(texts)

    def text(self, id):
        return self.texts[id - 1]

    def text_count(self):
        return len(self.texts)


@pytest.mark.parametrize("at_first", [0, 1, 3, 4, 5, 9, 10])
@pytest.mark.parametrize("then", [1, 2, 100])
def test_all_pieces_are_written_however_little_the_system_takes_at_once(
    tmp_path, monkeypatch, at_first, then
):
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    write = os.write
    monkeypatch.setattr(
        module.os, "writev", lambda fd, views: write(fd, b"".join(views)[:at_first])
    )
    monkeypatch.setattr(module.os, "write", lambda fd, view: write(fd, bytes(view[:then])))
    write_all(fd, b"0123", bytearray(b"456"), b"", b"789")
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_disk_that_is_full_leaves_what_was_whole_and_is_gone_on_with(tmp_path, monkeypatch):
    names = Source("first")
    file = NamesFile(str(tmp_path))
    assert file.fileno is None
    file.update(names)
    whole = (tmp_path / NAMES).read_bytes()
    names.texts.append("second")
    with monkeypatch.context() as patched:

        def full(fd, *pieces):
            os.write(fd, b"torn")
            raise OSError(28, "No space left on device")

        patched.setattr(module, "write_all", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                file.update(names)
            assert (tmp_path / NAMES).read_bytes() == whole
    file.update(names)
    file.update(names)
    assert read_names(str(tmp_path)) == ["", "first", "second"]
    assert file.fileno is not None
    file.close()
    assert file.fileno is None
    file.close()
    assert (tmp_path / NAMES).stat().st_mode & 0o777 == 0o600
    size = (tmp_path / NAMES).stat().st_size
    NamesFile(str(tmp_path), module.stored_names(str(tmp_path))).update(names)  # none is new
    assert (tmp_path / NAMES).stat().st_size == size
