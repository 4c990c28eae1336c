"""Artifacts on disk for another process: as they were at the call, or not at all."""

from __future__ import annotations

import json
import os
import zipfile

import pytest
from tracelet.backends import content as contents
from tracelet.backends import kept_artifacts as module
from tracelet.backends.artifact import Artifacts
from tracelet.backends.kept_artifacts import DamagedCopyError, keep, kept_in


@pytest.fixture
def made(tmp_path):
    return Artifacts(str(tmp_path / "kept"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def restored(folder):
    (kept,) = kept_in(str(folder))
    return kept.restored()


def entry_of(folder):
    return folder / "000001" / "entry.json"


def test_a_file_is_given_back_as_it_was_and_a_damaged_copy_is_not(made, folder, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"weights")
    (artifact,) = made.prepare(str(tmp_path / "net.pth"), "in/", 1)
    keep(artifact, "mine")
    (kept,) = kept_in(str(folder))
    assert (kept.backend, kept.name, kept.what) == ("mine", "in/net.pth", "artifact 'in/net.pth'")
    found, model = kept.restored()
    assert model is None
    assert found.model.framework == "PyTorch"
    assert (found.name, found.path) == ("in/net.pth", str(folder / "000001" / "net.pth"))
    assert (found.content.kind, found.content.filename) == ("custom", "net.pth")
    assert entry_of(folder).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(folder / "000001")) == ["entry.json", "net.pth"]
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert restored(moved)[0].path == str(moved / "000001" / "net.pth")
    copy = moved / "000001" / "net.pth"
    for content in (b"weightz", b"weights!", b""):
        copy.write_bytes(content)
        with pytest.raises(DamagedCopyError, match="is damaged"):
            restored(moved)
    copy.unlink()
    with pytest.raises(DamagedCopyError, match="is not there"):
        restored(moved)
    os.symlink(tmp_path / "net.pth", copy)
    with pytest.raises(DamagedCopyError, match="not this user's own file"):
        restored(moved)


def test_check_sums_are_of_all_blocks(made, folder, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4)
    (artifact,) = made.prepare(b"0123456789", "x.bin", 1)
    keep(artifact, "mine")
    restored(folder)
    (folder / "000001" / "x.bin").write_bytes(b"0023456789")
    with pytest.raises(DamagedCopyError):
        restored(folder)


def test_an_object_that_takes_long_to_write_is_there_when_it_was_written(made, folder):
    (artifact,) = made.prepare({"a": 1}, "t", 1)
    artifact.content.is_quick = False
    keep(artifact, "mine")
    with pytest.raises(DamagedCopyError, match="died before it could write it"):
        restored(folder)
    artifact.make_file()
    assert json.loads((folder / "000001" / "t.json").read_text()) == {"a": 1}
    assert restored(folder)[0].path == str(folder / "000001" / "t.json")


def test_a_folder_is_an_archive_again_unless_a_file_of_it_is_gone(made, folder, tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "a").write_text("aa")
    (source / "b").write_text("b")
    (artifact,) = made.prepare(str(source), None, 1)
    keep(artifact, "mine")
    found, _ = restored(folder)
    assert found.content.folder == str(folder / "000001" / "data")
    with zipfile.ZipFile(found.make_file()) as archive:
        assert archive.namelist() == ["a", "b"]
    (folder / "000001" / "data" / "a").write_text("a")
    with pytest.raises(DamagedCopyError, match="is not as it was"):
        restored(folder)


def test_a_large_file_is_where_it_lay_unless_it_has_changed(made, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "COPIED_BYTES", 3)
    path = tmp_path / "large"
    path.write_bytes(b"1234")
    (artifact,) = made.prepare(str(path), None, 1)
    keep(artifact, "mine")
    found, _ = restored(folder)
    assert (found.path, found.content.state) == (str(path), artifact.content.state)
    path.write_bytes(b"12345")
    with pytest.raises(DamagedCopyError, match="changed before it was uploaded"):
        restored(folder)


def test_a_model_is_given_back_with_what_was_said_of_it(made, folder, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"w")
    (model,) = made.prepare_model(str(tmp_path / "net.pth"), "best", {1: {2}}, ["t"], None, 1)
    keep(model.file, "mine", model)
    (kept,) = kept_in(str(folder))
    assert kept.what == "model 'best'"
    artifact, found = kept.restored()
    assert found.file is artifact
    assert (found.entry, found.name, found.tags, found.framework) == (
        "best", "best", ["t"], "PyTorch",
    )  # fmt: skip
    assert list(found.metadata) == ["1"]
    about = json.loads(entry_of(folder).read_text())
    about["weights"]["odd"] = 1
    entry_of(folder).write_text(json.dumps(about))
    with pytest.raises(DamagedCopyError, match="its entry is damaged"):
        kept_in(str(folder)).__next__().restored()


def test_places_without_an_entry_are_none_and_damaged_entries_are_told(made, folder, tmp_path):
    assert list(kept_in(str(folder))) == []
    for name in ("b", "a"):
        (artifact,) = made.prepare(name.encode(), name, 1)
        keep(artifact, "mine")
    (folder / "000003").mkdir()
    (folder / "file").touch()
    os.symlink(folder / "000001", folder / "000004")
    assert [kept.name for kept in kept_in(str(folder))] == ["b", "a"]
    for content in ("{", "[]", "{}", '{"backend": "x"}'):
        entry_of(folder).write_text(content)
        first, second = kept_in(str(folder))
        assert (first.backend, first.name, second.name) == ("", "000001", "a")
    entry_of(folder).unlink()
    os.symlink(tmp_path / "elsewhere", entry_of(folder))
    first, _ = kept_in(str(folder))
    assert first.backend == ""
