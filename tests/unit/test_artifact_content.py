"""Artifacts and models as they were at the call: what each value becomes, its name, its place."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from tracelet.backends import artifact as artifacts
from tracelet.backends import content as contents
from tracelet.backends.artifact import (
    Artifacts,
    FileUpload,
    artifact_name,
    framework_of,
    save_module,
    sha256_of,
)
from tracelet.backends.content import ChangedError, content_of


@pytest.fixture
def made(tmp_path):
    return Artifacts(str(tmp_path / "kept"))


def content_at(path):
    with open(path, "rb") as file:
        return file.read()


def one(made, value, path=None):
    (artifact,) = made.prepare(value, path, 1)
    return artifact


def test_each_backend_has_its_own_copy_and_a_moved_one_costs_the_other_nothing(made, tmp_path):
    (tmp_path / "a.txt").write_text("as it was")
    first, second = made.prepare(str(tmp_path / "a.txt"), None, 2)
    (tmp_path / "a.txt").write_text("changed")
    assert (first.name, second.name) == ("a.txt", "a.txt")
    assert [os.path.basename(each.place) for each in (first, second)] == ["000001", "000002"]
    for each in (first, second):
        assert os.stat(each.place).st_mode & 0o777 == 0o700
        assert content_at(each.make_file()).decode() == "as it was"
        assert each.path == os.path.join(each.place, "a.txt")
    first.discard()
    assert not os.path.exists(first.place)
    assert content_at(second.make_file()).decode() == "as it was"


def test_an_object_is_written_once_whole_and_leaves_nothing_beside_it(made):
    artifact = one(made, b"data", "x.bin")
    assert artifact.path == ""
    path = artifact.make_file()
    os.utime(path, (1, 1))
    assert artifact.make_file() == path
    assert os.stat(path).st_mtime == 1
    assert os.listdir(artifact.place) == ["x.bin"]


def test_what_is_set_aside_is_moved_under_its_number_and_its_place_goes(made, tmp_path):
    artifact = one(made, b"data", "x.bin")
    target = artifact.keep(str(tmp_path / "aside"))
    assert target == str(tmp_path / "aside" / "000001-x.bin")
    assert content_at(target) == b"data"
    assert not os.path.exists(artifact.place)
    assert os.stat(tmp_path / "aside").st_mode & 0o777 == 0o700


def test_a_large_file_is_read_where_it_lies_and_stays_there(made, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "COPIED_BYTES", 3)
    path = tmp_path / "large"
    path.write_bytes(b"123")
    assert one(made, path).content.state is None
    path.write_bytes(b"1234")
    artifact = one(made, path)
    assert artifact.content.state == (4, path.stat().st_mtime_ns)
    assert artifact.make_file() == str(path)
    assert artifact.keep(str(tmp_path / "aside")) == str(path)
    assert path.exists()
    again = artifact.content.linked_to(str(tmp_path / "other"), str(tmp_path / "none"))
    assert (again.path, again.state) == (str(path), artifact.content.state)
    path.write_bytes(b"12345")
    with pytest.raises(ChangedError, match="changed before it was uploaded"):
        artifact.make_file()
    path.unlink()
    with pytest.raises(ChangedError):
        artifact.make_file()
    upload = FileUpload(artifact)
    assert upload.is_refused(ChangedError())
    assert upload.is_refused(FileNotFoundError())
    assert not upload.is_refused(OSError())


def test_an_upload_is_named_by_what_it_is_and_has_the_size_of_its_file(made):
    artifact = one(made, b"12345", "x.bin")
    upload = FileUpload(artifact)
    assert (upload.name, upload.size_bytes) == ("artifact 'x.bin'", 0)
    assert FileUpload(artifact, is_artifact=False).name == "model 'x.bin'"
    assert upload.make_file() == artifact.path
    assert upload.size_bytes == 5
    upload.discard()
    assert not os.path.exists(artifact.place)


def test_names_are_those_of_the_files_or_as_was_said(tmp_path):
    path = tmp_path / "a.txt"
    path.touch()
    assert artifact_name(path, None) == "a.txt"
    assert artifact_name(str(path), "models/") == "models/a.txt"
    assert artifact_name(path, "b/c.txt") == "b/c.txt"
    assert artifact_name({}, "c.json") == "c.json"
    assert artifact_name(str(tmp_path) + "/", None) == tmp_path.name
    for value, name in (({}, None), ({}, "folder/")):
        with pytest.raises(ValueError, match="an object needs a name"):
            artifact_name(value, name)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        artifact_name(str(tmp_path / "gone"), "x")


def test_another_file_of_the_same_name_gets_another_name_and_the_same_one_keeps_it(made, tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    os.symlink(tmp_path / "one" / "a.txt", tmp_path / "a.txt")
    names = [one(made, tmp_path / each / "a.txt").name for each in ("one", "two", "three", "two")]
    assert names == ["a.txt", "a-2.txt", "a-3.txt", "a-2.txt"]
    assert one(made, tmp_path / "a.txt").name == "a.txt"  # a link to the first
    assert one(made, tmp_path / "two" / "a.txt", "a.txt").name == "a.txt"  # as the user said
    assert one(made, {}, "a.txt").name == "a.txt"
    assert one(made, tmp_path / "two" / "a.txt", "in/").name == "in/a.txt"
    assert one(made, tmp_path / "one" / "a.txt", "in/").name == "in/a-2.txt"


def test_a_weights_file_is_a_model_too(made, tmp_path):
    (tmp_path / "net.PTH").write_bytes(b"w")
    artifact = one(made, str(tmp_path / "net.PTH"), "models/")
    model = artifact.model
    assert (model.entry, model.framework, model.extension) == ("models/net", "PyTorch", ".PTH")
    assert model.source == str(tmp_path / "net.PTH")
    assert one(made, b"x", "net.pth").model is None
    (tmp_path / "folder.pth").mkdir()
    assert framework_of(str(tmp_path / "folder.pth")) is None
    assert framework_of("x.h5") == "Keras"
    assert framework_of("x.txt") is None


def test_models_of_files_and_of_objects(made, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"w")
    first, second = made.prepare_model(str(path), None, {"a": 1}, ["t"], None, 2)
    assert (first.entry, first.framework, first.extension) == ("net", "ONNX", ".onnx")
    assert (first.name, first.tags, first.metadata) == (None, ["t"], {"a": 1})
    assert first.source == str(path)
    assert first.file is not second.file
    assert content_at(second.file.make_file()) == b"w"
    assert path.exists()  # the user's own
    (named,) = made.prepare_model(path, "best", None, None, "Mine", 1)
    assert (named.entry, named.name, named.framework, named.metadata) == (
        "best",
        "best",
        "Mine",
        {},
    )
    (tmp_path / "weights").write_bytes(b"w")
    (custom,) = made.prepare_model(str(tmp_path / "weights"), None, None, None, None, 1)
    assert (custom.framework, custom.extension) == ("Custom", "")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        made.prepare_model(str(tmp_path / "gone"), "x", None, None, None, 1)
    for name in (None, ""):
        with pytest.raises(ValueError, match="needs a name"):
            made.prepare_model(object(), name, None, None, None, 1)
    (fitted,) = made.prepare_model(Estimator(), "a/b", None, None, None, 1)
    assert (fitted.entry, fitted.framework, fitted.extension) == ("a/b", "ScikitLearn", ".pkl")
    assert fitted.source == ""
    assert isinstance(pickle.loads(content_at(fitted.file.make_file())), Estimator)
    assert sorted(os.listdir(tmp_path / "kept"))[-1].isdigit()  # no temporary folder is left
    (mine,) = made.prepare_model(Estimator(), "c", None, None, "Mine", 1)
    assert mine.framework == "Mine"


class Estimator:
    def fit(self): ...

    def predict(self): ...


def test_a_module_is_saved_by_torch_and_by_no_name_that_clearml_would_see(tmp_path):
    torch = pytest.importorskip("torch")
    path = str(tmp_path / "net.pth")
    assert save_module(torch.nn.Linear(2, 1), path) == "PyTorch"
    assert sorted(torch.load(path)) == ["bias", "weight"]
    with open(path, "wb") as file:
        assert not hasattr(artifacts._Nameless(file), "name")

    class OnlyFit:
        def fit(self): ...

    for odd in (OnlyFit(), 5):
        with pytest.raises(TypeError, match="neither a path nor a torch module"):
            save_module(odd, path)


def test_what_can_be_no_artifact_leaves_no_place_behind(made, tmp_path):
    with pytest.raises(TypeError, match="'x' is a object; an artifact is"):
        made.prepare(object(), "x", 3)
    with pytest.raises(TypeError, match="can't be written as JSON"):
        made.prepare({"a": object()}, "x", 2)
    assert os.listdir(tmp_path / "kept") == []


def test_a_folder_is_an_archive_of_what_it_was(made, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    (folder / "b.txt").write_text("b")
    (folder / "in" / "a.txt").write_text("aa")
    first, second = made.prepare(str(folder), None, 2)
    (folder / "b.txt").write_text("changed")
    for each in (first, second):
        assert each.content.filename == "data.zip"
        assert not each.content.is_object
        assert each.content.preview.split("\n") == ["b.txt - 1 bytes", "in/a.txt - 2 bytes"]
        with zipfile.ZipFile(each.make_file()) as archive:
            assert archive.namelist() == ["b.txt", "in/a.txt"]
            assert archive.read("b.txt") == b"b"
            assert archive.getinfo("b.txt").compress_type == zipfile.ZIP_DEFLATED
    monkeypatch.setattr(contents, "COPIED_BYTES", 9)
    assert one(made, folder).content.folder != str(folder)
    monkeypatch.setattr(contents, "COPIED_BYTES", 8)
    assert one(made, folder).content.folder == str(folder)  # 9 bytes: read where it lies


def test_without_hard_links_a_copy_is_made(made, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(1, "refused")

    monkeypatch.setattr(contents.os, "link", refuse)
    (tmp_path / "a").write_text("a")
    first, second = made.prepare(str(tmp_path / "a"), None, 2)
    assert [content_at(each.make_file()).decode() for each in (first, second)] == ["a", "a"]


def written(content, tmp_path):
    path = tmp_path / content.filename
    content.write(str(path))
    return path.read_bytes()


def test_values_become_files_that_give_them_back(tmp_path):
    array = np.arange(6).reshape(2, 3)
    content = content_of(array, "in/arr", "unused")
    array += 1
    assert (content.kind, content.filename, content.content_type) == (
        "numpy", "arr.npz", "application/numpy",
    )  # fmt: skip
    assert "[0, 1, 2]" in content.preview
    assert np.load(io.BytesIO(written(content, tmp_path)))["in/arr"].tolist() == [
        [0, 1, 2], [3, 4, 5],
    ]  # fmt: skip
    assert content.is_object
    assert content.is_quick
    table = {"b": [1], "a": 2}
    content = content_of(table, "t.json", "unused")
    table["c"] = 3
    assert (content.kind, content.filename) == ("dict", "t.json")
    assert written(content, tmp_path).decode() == content.preview
    assert content.preview == json.dumps({"a": 2, "b": [1]}, indent=4)
    data = bytearray(b"abc")
    content = content_of(data, "folder/", "unused")
    data[0] = 0
    assert (content.kind, content.filename, content.preview) == ("custom", "folder", "3 bytes")
    assert written(content, tmp_path) == b"abc"
    assert content_of(b"", "/", "unused").filename == "artifact"
    assert content_of(b"", "x.png", "unused").content_type == "image/png"


def test_arrays_are_compressed_where_that_takes_a_moment_only(tmp_path):
    for count, is_small in ((1 << 17, True), ((1 << 17) + 1, False)):
        content = content_of(np.zeros(count), "a", "unused")
        assert (len(written(content, tmp_path)) < 100_000) is is_small


def test_frames_images_and_figures(tmp_path):
    pandas = pytest.importorskip("pandas")
    images = pytest.importorskip("PIL.Image")
    frame = pandas.DataFrame({"a": [1, 2]}, index=["x", "y"])
    content = content_of(frame, "table.csv", "unused")
    assert (content.kind, content.filename) == ("pandas", "table.csv.gz")
    assert content.content_type == "text/csv"
    assert content.is_quick
    first = written(content, tmp_path)
    assert gzip.decompress(first) == b",a\nx,1\ny,2\n"
    assert first[4:8] == bytes(4)  # no time of day
    assert content_of(frame, "table", "unused").filename == "table.csv.gz"
    for odd in (frame.set_index([[1, 2], [3, 4]]), pandas.concat({"k": frame}, axis=1)):
        content = content_of(odd, "odd", "unused")
        assert (content.kind, content.filename) == ("pickle", "odd.pkl")
        assert pickle.loads(written(content, tmp_path)).equals(odd)
    for size, is_quick in (((1024, 1024), True), ((1025, 1024), False)):
        content = content_of(images.new("L", size), "i", "unused")
        assert (content.kind, content.filename, content.is_quick) == ("image", "i.png", is_quick)
    assert content.preview == "1025x1024 pixels"
    assert content_of(images.new("RGB", (1024, 512)), "i", "unused").is_quick is False
    image = images.new("L", (3, 2), 7)
    content = content_of(image, "i", "unused")
    image.putpixel((0, 0), 0)
    assert images.open(io.BytesIO(written(content, tmp_path))).getpixel((0, 0)) == 7


def test_a_model_that_is_ours_is_moved_and_not_copied(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"1")
    content = content_of(str(source), "a", str(target), is_ours=True)
    assert (content.path, content.write, content.preview) == (str(target), None, "a - 1 bytes")
    assert not source.exists()
    assert contents._state_of(str(source)) is None


def test_a_check_sum_is_of_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_HASH_BLOCK_BYTES", 4)
    (tmp_path / "file").write_bytes(b"123456789")
    assert sha256_of(str(tmp_path / "file")) == hashlib.sha256(b"123456789").hexdigest()
