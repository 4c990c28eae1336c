"""Artifacts and models as they were at the call, and their way to a tracker; see `Backend`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tracelet.backends.content import ChangedError, Content, content_of
from tracelet.option_kinds import Table, Text, Texts
from tracelet.safe_names import file_name

_HASH_BLOCK_BYTES = 1 << 20

# ClearML's names of the frameworks, by the ends of file names; other trackers take them as a text.
_FRAMEWORKS = {
    ".pth": "PyTorch", ".pt": "PyTorch", ".bin": "PyTorch", ".ckpt": "PyTorch",
    ".safetensors": "PyTorch", ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow",
    ".tflite": "TensorFlow_Lite", ".onnx": "ONNX", ".pkl": "ScikitLearn",
    ".joblib": "ScikitLearn", ".xgb": "XGBoost", ".ubj": "XGBoost", ".lgb": "LightGBM",
    ".cbm": "CatBoost", ".mge": "MegEngine", ".pdparams": "PaddlePaddle", ".engine": "TensorRT",
}  # fmt: skip


@dataclass
class Model:
    """What is said of a weights file."""

    entry: str
    """Its name among the run's models."""
    framework: str
    extension: str = ""
    source: str = ""
    """The path it was saved to."""
    name: str | None = None
    """The name that the user gave."""
    tags: Sequence[str] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    file: Artifact | None = None
    """The weights."""


@dataclass
class Artifact:
    """A file or folder, as it was at the call. Each backend has one of its own."""

    name: str
    content: Content
    place: str
    """A folder for what must be kept until it is uploaded; it is removed then."""
    model: Model | None = None
    """Of a weights file: it is a model, too."""
    path: str = ""
    """The file; "" before `make_file`."""

    def make_file(self) -> str:
        """The path of the file, written now if it was not yet. Raises ChangedError, OSError."""
        if not self.path and self.content.write is not None:
            path = os.path.join(self.place, self.content.filename)
            with tempfile.TemporaryDirectory(dir=self.place) as temporary:  # a name in it is kept
                new = os.path.join(temporary, self.content.filename)
                self.content.write(new)
                os.replace(new, path)
            self.path = path
        self.path = self.path or self.content.path
        self.content.check_unchanged()
        return self.path

    def keep(self, folder: str) -> str:
        """Moves the copy that was made to `folder`; returns where the data are."""
        if self.content.state is not None:
            return self.content.path
        with contextlib.suppress(Exception):
            self.make_file()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        target = os.path.join(folder, f"{os.path.basename(self.place)}-{self.content.filename}")
        with contextlib.suppress(OSError):
            os.replace(self.path, target)
        self.discard()
        return target

    def discard(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)


def flat_name(name: str, longest: int | None = None) -> str:
    """An artifact's name for a tracker whose names have no folders and no odd characters, and at
    most `longest` characters; two names never become one."""
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if clean == name and (longest is None or len(name) <= longest):
        return name
    stem, end = os.path.splitext(clean)
    if longest is not None:
        stem, end = stem[: longest - 40], end[:16]
    return f"{stem}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}{end}"


class FileUpload:
    """An artifact on its way, in the shape of `Upload`; a subclass has `upload`."""

    def __init__(
        self, artifact: Artifact, is_artifact: bool = True, model: Model | None = None
    ) -> None:
        """`model`: of which it is the file, for a tracker whose models are artifacts."""
        self.kind = "artifact" if is_artifact and model is None else "model"
        self.name = f"{self.kind} {artifact.name!r}"
        self.size_bytes: int | None = 0
        self.artifact = artifact
        self.model = model

    @property
    def about(self) -> dict[str, Any]:
        """What a tracker keeps beside the file: its name here, and what its model says."""
        about: dict[str, Any] = {"name": self.artifact.name}
        if self.model is not None:
            about.update(framework=self.model.framework, tags=list(self.model.tags or ()))
            about.update({str(key): str(value) for key, value in self.model.metadata.items()})
        return about

    @property
    def file_name(self) -> str:
        """Without folders, with the ending that the content has."""
        name = os.path.basename(self.artifact.name)
        end = os.path.splitext(self.artifact.content.filename)[1]
        return name if name.endswith(end) else name + end

    def upload(self) -> None:
        raise NotImplementedError

    def make_file(self) -> str:
        path = self.artifact.make_file()
        self.size_bytes = os.path.getsize(path)
        return path

    def is_refused(self, error: Exception) -> bool:
        return isinstance(error, (ChangedError, FileNotFoundError))

    def keep(self, folder: str) -> str:
        return self.artifact.keep(folder)

    def discard(self) -> None:
        self.artifact.discard()


class Artifacts:
    """Makes artifacts of what is logged. One thread at a time."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._sources: dict[str, str] = {}  # an artifact's name to the path it came from

    def prepare(self, value: Any, artifact_path: str | None, copies: int) -> list[Artifact]:
        """The same artifact, `copies` times: one for each backend.

        Raises FileNotFoundError, ValueError or TypeError naming the artifact.
        """
        name = self._unused_name(artifact_name(value, artifact_path), value, artifact_path)
        model = None
        if is_path(value) and (framework := framework_of(os.fspath(value))):
            stem, extension = os.path.splitext(name)
            model = Model(stem, framework, extension, os.path.abspath(os.fspath(value)))
        return self._make(name, value, copies, model, is_ours=False)

    def prepare_model(
        self,
        model: Any,
        name: str | None,
        metadata: Mapping[str, Any] | None,
        tags: Sequence[str] | None,
        framework: str | None,
        copies: int,
    ) -> list[Model]:
        """The model of `Experiment.log_model`, `copies` times. Raises what that raises."""
        about = dict(metadata or {})
        if is_path(model):
            path = os.fspath(model)
            if not os.path.exists(path):
                raise FileNotFoundError(f"log_model: there is no file {path!r}")
            stem, extension = os.path.splitext(os.path.basename(os.path.abspath(path)))
            kind = framework or framework_of(path) or "Custom"
            entry = Model(name or stem, kind, extension, os.path.abspath(path), name, tags, about)
            return self._models(entry, path, copies, is_ours=False)
        if not name:
            raise ValueError("log_model: a model that is no file needs a name: name='resnet50'")
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        extension = ".pth" if hasattr(model, "state_dict") else ".pkl"
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            path = os.path.join(temporary, file_name(name) + extension)
            found = save_module(model, path)
            entry = Model(name, framework or found, extension, "", name, tags, about)
            return self._models(entry, path, copies, is_ours=True)

    def _models(self, model: Model, path: str, copies: int, is_ours: bool) -> list[Model]:
        made = self._make(model.entry, path, copies, None, is_ours)
        return [replace(model, file=artifact) for artifact in made]

    def _make(
        self, name: str, value: Any, copies: int, model: Model | None, is_ours: bool
    ) -> list[Artifact]:
        base = os.path.basename(os.path.abspath(os.fspath(value))) if is_path(value) else "object"
        places = [self._new_place() for _ in range(copies)]
        contents = contents_in(value, name, [os.path.join(each, base) for each in places], is_ours)
        return [Artifact(name, *each, model) for each in zip(contents, places)]

    def _new_place(self) -> str:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        place = os.path.join(self._folder, f"{next(self._numbers):06d}")
        os.mkdir(place, mode=0o700)
        return place

    def _unused_name(self, name: str, value: Any, artifact_path: str | None) -> str:
        """Another name for another file with the same base name: neither shall be overwritten.

        The same file again, and a name that the user gave in full, replace what is there.
        """
        is_chosen = bool(artifact_path) and not str(artifact_path).endswith("/")
        if is_chosen or not is_path(value):
            return name
        source = os.path.realpath(os.fspath(value))
        stem, extension = os.path.splitext(name)
        for number in itertools.count(2):
            if self._sources.setdefault(name, source) == source:
                return name
            name = f"{stem}-{number}{extension}"
        raise AssertionError


def contents_in(value: Any, name: str, paths: Sequence[str], is_ours: bool) -> list[Content]:
    """The content of a value, once for each path it may be copied to: by hard links, so several
    backends need no more room than one. Raises what `content_of` raises."""
    try:
        first = content_of(value, name, paths[0], is_ours)
    except BaseException:
        for path in paths:
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)
        raise
    return [first, *(first.linked_to(path, paths[0]) for path in paths[1:])]


def check_model_arguments(
    name: str | None,
    metadata: Mapping[str, Any] | None,
    tags: Sequence[str] | None,
    framework: str | None,
) -> None:
    """Raises TypeError or ValueError for what `log_model` can't take, before anything is made."""
    if name is not None:
        Text(may_be_blank=False).check("log_model: name", name)
    if framework is not None:
        Text(may_be_blank=False).check("log_model: framework", framework)
    if metadata is not None:
        Table('a mapping, like {"accuracy": 0.9}').check("log_model: metadata", metadata)
    if tags is not None:
        Texts().check("log_model: tags", tags)


def is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def artifact_name(artifact: Any, artifact_path: str | None) -> str:
    """The name an artifact gets: a folder ("models/") is put before the file's own name.

    Raises FileNotFoundError for a path that isn't there, ValueError for an object without a name.
    """
    if artifact_path is not None:
        artifact_path = Text().check("log_artifact: artifact_path", artifact_path)
    path = os.fspath(artifact) if is_path(artifact) else None
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(f"log_artifact: there is no file or folder {path!r}")
    base = os.path.basename(os.path.abspath(path)) if path is not None else ""
    if artifact_path and not artifact_path.endswith("/"):
        return artifact_path
    if not base:
        raise ValueError("log_artifact: an object needs a name: artifact_path='results.csv'")
    return f"{artifact_path or ''}{base}"


def framework_of(path: str) -> str | None:
    """The framework that a weights file is of, by its name; None for what is none."""
    return None if os.path.isdir(path) else _FRAMEWORKS.get(os.path.splitext(path)[1].lower())


def sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def save_module(module: Any, path: str) -> str:
    """Saves an object's weights; returns the framework. Raises TypeError for what has none.

    ClearML's binding of torch.save sees no file name, and so registers nothing.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(module, "state_dict"):
        with open(path, "wb") as file:
            torch.save(module.state_dict(), _Nameless(file))
        return "PyTorch"
    if hasattr(module, "fit") and hasattr(module, "predict"):
        import pickle

        with open(path, "wb") as file:
            pickle.dump(module, file)
        return "ScikitLearn"
    raise TypeError(
        f"log_model: {type(module).__name__} is neither a path nor a torch module nor an estimator "
        "with fit and predict; save it to a file and give its path"
    )


class _Nameless:
    """A file for writing, without a name."""

    def __init__(self, file: Any) -> None:
        self.write = file.write
        self.flush = file.flush
