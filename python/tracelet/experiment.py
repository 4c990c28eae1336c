"""The handle of a run that users hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex, Union

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.options import check_seconds
from tracelet.stats import Stats
from tracelet.summary import SeriesSummary

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tracelet.pipeline.lifecycle import AnyRun
    from tracelet.pipeline.rank_run import RankRun
    from tracelet.pipeline.run import Run
    from tracelet.reading import Logs, Scalars

Number = Union[SupportsFloat, SupportsIndex]
"""A number, or an array or a tensor with one element."""


class Experiment:
    """A run as its user sees it, returned by `start_logging` and `get_active_experiment`.

    All methods may be called by any thread. After `stop_logging` the properties stay readable and
    the logging methods raise TraceletError.
    """

    def __init__(self, run: AnyRun) -> None:
        from tracelet.pipeline import lifecycle

        self._active_run = lifecycle.active_run
        self._is_running = lifecycle.running
        self._takes_points = lifecycle.takes_points
        self._stop_run = lifecycle.stop_run
        self._run = run
        self._handle = run.handle
        self._steps = _core.StepCounter()
        self._step: int | None = None
        self._logs: Logs | None = None  # what was read of its event files
        # Kept, to be read when the run has ended.
        self._ids, self._urls, self._is_away = run.ids, run.urls, run.is_away

    @property
    def id(self) -> str:
        """The run's id in its first backend; tracelet's own where no backend has one."""
        return next(iter(self._ids.values()), self._run.run_id)

    @property
    def ids(self) -> Mapping[str, str]:
        """The run's ids by backend, of those that have one."""
        return dict(self._ids)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._run.options.task_name or self._run.options.exp_name

    @property
    def url(self) -> str | None:
        """Where the run is to be seen in its first backend that says so: its page, the folder of an
        offline session, or "". None when a server was away at the start, so that the run is offline
        (`tracelet sync`)."""
        return next(iter(self._urls.values()), None if self._is_away else "")

    @property
    def urls(self) -> Mapping[str, str]:
        """Where the run is to be seen, by backend."""
        return dict(self._urls)

    @property
    def stats(self) -> Stats:
        """What became of the points so far."""
        return self._run.stats()

    @property
    def summary(self) -> Mapping[str, SeriesSummary]:
        """The last, least and greatest value of each series of scalars, its number of points and
        its last step, by tag; of a tag that several writers have, the others' are "FOLDER: TAG",
        "FOLDER (SUFFIX): TAG" by their files' suffix, "(handle): TAG" where the handle has no
        folder. A point is in it once the drainer has it, some 0.25 s after the call, or
        after `flush`. It stays after the run's end; `tracelet show` shows it."""
        return self._run.summary()

    def __enter__(self) -> Experiment:
        """`with tracelet.start_logging(...) as experiment:` ends the run with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self.is_active:
            self._run.note_failure(error)
        self._stop_run(self._run)

    def stop(self) -> None:
        """Ends this run, as `stop_logging` does, whichever run is the active one. Once is enough:
        after that it does nothing."""
        self._stop_run(self._run)

    def log_metric(self, name: str, value: Number, step: int | None = None) -> None:
        """Logs a point without a SummaryWriter; `value` and `step` as for `add_scalar`.

        It goes to the backends, and to an event file when the option `log_dir` is set or
        "tensorboard" is one of them. Raises TypeError or ValueError naming the metric.
        """
        writer = self._handle.writer
        if self._active_run() is not self._run:  # another run is inside this one, or it has ended
            self._check_takes_points("log_metric")
            writer = self._handle.settle()
            _core.log_metric_into(self._run.ring, name, value, step, writer)
            return
        _core.log_metric(name, value, step, self._handle.settle() if writer is None else writer)

    def log(self, metrics: Mapping[str, Number], step: int | None = None) -> None:
        """Logs a point for each entry of a flat mapping, all with the same step and wall time.

        `experiment.log({"loss": 0.5, "acc": 0.9}, step=7)`; names and values as for `log_metric`.
        Without a step it counts up: from 0, or from one more than the greatest it was given. Raises
        TypeError or ValueError naming the entry; then none of them is logged.
        """
        run, writer = None, self._handle.writer
        if self._active_run() is not self._run:  # another run is inside this one, or it has ended
            self._check_takes_points("log")
            run, writer = self._run.ring, None
        writer = self._handle.settle() if writer is None else writer
        _core.log_metrics(run, metrics, step, self._steps, writer)

    def log_image(
        self, name: str, image: object, step: int | None = None, dataformats: str | None = None
    ) -> None:
        """Logs a picture: a path, bytes of an image file, a PIL image, an array or a tensor.

        Of shape (H, W), (H, W, C) or (C, H, W), C being 1, 3 or 4; `dataformats` ("HWC", "CHW")
        says which where both fit: by default an array's channels are last and a tensor's first.
        uint8, or floats from 0 to 1. As all that follows, it goes the way of `log_metric`, through
        the ring, and holds back no scalar. Raises TypeError, ValueError or FileNotFoundError.
        """
        from tracelet.capture.manual import image_event

        self._log_event("log_image", name, image_event(name, image, step, dataformats))

    def log_histogram(
        self,
        name: str,
        values: object,
        step: int | None = None,
        bins: int | str | Sequence[float] | NDArray[np.generic] = "tensorflow",
    ) -> None:
        """Logs how values are distributed, as SummaryWriter.add_histogram does: counted natively
        in the call, over the caller's own memory.

        `values` is a tensor, an array, a list or anything with the buffer protocol, of any shape
        and real dtype; `bins` is "tensorflow" (TensorBoard's), a number, the name of one of numpy's
        rules, or edges. NaN and infinities are counted and left out. Raises TypeError or
        ValueError naming it.
        """
        _check_name("log_histogram", name)
        self._check_takes_points("log_histogram")
        _core.log_histogram_into(self._run.ring, name, values, step, bins, self._handle.settle())

    def log_audio(
        self, name: str, audio: object, step: int | None = None, sample_rate: int = 44100
    ) -> None:
        """Logs a sound: a path, bytes of a sound file, or an array or tensor of samples.

        Of shape (L,), (L, C) or (C, L), with C channels, 8 at most: floats from -1 to 1, or int16.
        A file goes as it is. Raises TypeError, ValueError or FileNotFoundError naming it.
        """
        from tracelet.capture.sound_and_video import audio_event

        self._log_event("log_audio", name, audio_event(name, audio, step, sample_rate))

    def log_video(self, name: str, video: object, step: int | None = None, fps: float = 4) -> None:
        """Logs a video, as an animated GIF: a path, bytes of a GIF, or an array or tensor.

        Of shape (T, H, W), (T, C, H, W) or (T, H, W, C), C being 1 or 3, or as SummaryWriter's
        add_video (1, T, C, H, W); uint8, or floats from 0 to 1. Raises as `log_audio`.
        """
        from tracelet.capture.sound_and_video import video_event

        self._log_event("log_video", name, video_event(name, video, step, fps))

    def log_text(self, name: str, text: str, step: int | None = None) -> None:
        """Logs a text, as SummaryWriter.add_text does; Markdown in TensorBoard."""
        from tracelet.capture.manual import text_event

        self._log_event("log_text", name, text_event(name, text, step))

    def log_figure(self, name: str, figure: object, step: int | None = None) -> None:
        """Logs a matplotlib figure (or `pyplot`) as a picture, a Plotly figure as a plot.

        A Plotly figure is shown on ClearML alone. Raises TypeError for another thing.
        """
        from tracelet.capture.manual import figure_event

        self._log_event("log_figure", name, figure_event(name, figure, step))

    def log_table(self, name: str, table: object, step: int | None = None) -> None:
        """Logs a table: a DataFrame, a mapping of columns, or rows whose first is the header.

        A plot on ClearML, Markdown in TensorBoard; at most 10,000 rows. Raises TypeError or
        ValueError naming it.
        """
        from tracelet.capture.manual import table_event

        self._log_event("log_table", name, table_event(name, table, step))

    def _log_event(self, method: str, name: str, event: object) -> None:
        _check_name(method, name)
        self._check_takes_points(method)
        self._run.push_event(event)

    def watch(self, model: torch.nn.Module, every: int = 100, name: str = "") -> None:
        """Logs the model's gradients and parameters as histograms, at every `every`-th step of its
        optimizer, until `unwatch` or the run's end.

        They are "gradients/NAME" and "parameters/NAME", behind `name` and "/" where it is given,
        as they are when `optimizer.step()` begins: with gradient accumulation once for all its
        backward passes. Their step is `experiment.step` where that is set, else the number of
        optimizer steps so far. A GradScaler's scale is taken out of the gradients. Training's
        results are not changed; what goes wrong is told once.
        A model that is watched already is watched anew. Raises TypeError or ValueError.
        """
        from tracelet.capture.watch import ModelWatch

        watches = self._check_active("watch").watches
        if not isinstance(name, str):
            raise TypeError(f"watch: name must be a str, not {type(name).__name__}")
        prefix = f"{name}/" if name else ""
        watch = ModelWatch(model, every, prefix, self.log_histogram, lambda: self._step)
        watches.add(watch, model)

    def unwatch(self, model: torch.nn.Module | None = None) -> None:
        """Ends what `watch` began, for one model or for all; does nothing where there is none."""
        running = self._is_running(self._run)
        if running is not None:
            running.watches.end(model)

    @property
    def step(self) -> int | None:
        """The step of what `watch` logs, where the program counts its steps itself; None, as at
        first: that counts the optimizer's steps. Other methods have a step of their own."""
        return self._step

    @step.setter
    def step(self, step: int | None) -> None:
        if step is not None and (isinstance(step, bool) or not hasattr(type(step), "__index__")):
            raise TypeError(f"step must be an int or None, not {type(step).__name__}")
        self._step = None if step is None else int(step.__index__())

    def log_params(self, params: object) -> None:
        """Logs parameters: a mapping, an argparse.Namespace, a dataclass, an OmegaConf config.

        Nested ones are flattened with "/". On ClearML they are connected hyperparameters: edited in
        its UI and run by an agent, the edited values are written back into `params`, in the types
        they have here. Those whose names begin with "model." are metadata of the run's models as
        well. Raises TypeError for another thing.
        """
        self._check_active("log_params").verbs.log_params(params)

    def set_tags(self, tags: Sequence[str]) -> None:
        """Gives the run these tags, in the place of those it has from `config` or an earlier call.

        Tags that others gave it in the tracker stay. On ClearML they are the task's tags, on MLflow
        tags without a value, in TensorBoard a text. Raises TypeError or ValueError.
        """
        self._check_active("set_tags").verbs.set_tags(tags)

    def set_notes(self, text: str) -> None:
        """Says what the run is about; a later call takes the place of an earlier one.

        On ClearML it is the task's comment, on MLflow the run's description, in TensorBoard a text
        (Markdown). Raises TypeError or ValueError.
        """
        self._check_active("set_notes").verbs.set_notes(text)

    def log_artifact(self, artifact: object, artifact_path: str | None = None) -> None:
        """Uploads a file, a folder or an object in the background.

        `artifact` is a path, a dict, list, bytes, numpy array, pandas DataFrame, PIL image or
        matplotlib figure, as it is at the call; a file beyond 256 MiB is read where it lies and
        must not change until it is uploaded. A weights file (.pth, .safetensors, .onnx, .pkl ...)
        is registered as a model, too. `artifact_path` is the artifact's name; ending in "/" it is
        a folder that is put before the file's own name. Another file of a name that is taken gets
        a number behind it. What could not be uploaded by the end of `stop_logging` is named in a
        warning and counted in `stats.artifacts`.

        Raises FileNotFoundError for a path that isn't there, ValueError for an object without a
        name, TypeError for one of another kind.
        """
        self._check_active("log_artifact").verbs.log_artifact(artifact, artifact_path)

    def log_model(
        self,
        model: object,
        name: str | None = None,
        metadata: Mapping[str, object] | None = None,
        tags: Sequence[str] | None = None,
        framework: str | None = None,
    ) -> None:
        """Registers a model: a weights file's path, a torch module or a scikit-learn estimator.

        It is uploaded in the background, as by `log_artifact`; of a module, its `state_dict` as it
        is at the call. `name` is needed unless `model` is a path; `tags` are by default the run's,
        `framework` is by default found from the file's name. Raises FileNotFoundError, ValueError
        or TypeError.
        """
        self._check_active("log_model").verbs.log_model(model, name, metadata, tags, framework)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Waits until every point logged so far is delivered to every sink.

        False when that took longer than `timeout_s` seconds; the points are then still on their
        way.
        """
        return self._run.flush(check_seconds("timeout_s", timeout_s))

    def history(self, name: str, timeout_s: float = 30.0) -> Scalars:
        """What was logged under a tag so far, as numpy arrays: `.steps`, `.values`, `.wall_times`.

        Read from the run's event files, once what was logged before this call is in them; it may be
        called while the run goes on and when it has ended. `.latest()` has each step once. Of one
        tag in several log folders: `tracelet.read(experiment).runs[folder].scalars(name)`. Raises
        KeyError, with the nearest tag, for one that has no scalars, and TraceletError where the run
        has no event files, or the points were not there within `timeout_s` seconds.
        """
        logs = self._event_files("history", timeout_s)
        having = [run for run in logs.runs.values() if name in run.tags["scalars"]]
        if len(having) > 1:
            folders = ", ".join(repr(run.name) for run in having[:10])
            raise TraceletError(
                f"history: {name!r} was logged to several folders ({folders}); choose one: "
                f"tracelet.read(experiment).runs[{having[0].name!r}].scalars({name!r})"
            )
        return (having or list(logs.runs.values()))[0].scalars(name)

    def _event_files(self, method: str, timeout_s: float = 30.0) -> Logs:
        from tracelet.pipeline.attached_run import AttachedRun
        from tracelet.reading import read_files

        run = self._run
        if isinstance(run, AttachedRun):
            raise TraceletError(
                f"{method}: the run is another process'; tracelet.read(FOLDER) reads its files"
            )
        # A child that was forked knows no sink's place but by what all have acknowledged.
        flush = run.flush if run.is_forked else run.flush_event_files
        if not flush(check_seconds("timeout_s", timeout_s)):
            raise TraceletError(f"{method}: the event files lack points after {timeout_s:g} s")
        if self._logs is None:
            self._logs = read_files(self.name, run.event_files, are_absolute=True)
        else:
            self._logs.refresh()
        if not self._logs.runs:
            if run.options.tensorboard == "passthrough":
                raise TraceletError(
                    f"{method}: with tensorboard='passthrough' the event files are torch's own; "
                    "tracelet.read(FOLDER) reads them"
                )
            raise TraceletError(
                f"{method}: this run has no event files; the option log_dir gives it one"
            )
        return self._logs

    @property
    def is_active(self) -> bool:
        """Whether the run goes on, in this process."""
        return self._is_running(self._run) is not None

    def _check_takes_points(self, method: str) -> None:
        if not self._takes_points(self._run):
            raise TraceletError(f"{method}: this run has ended")

    def _check_active(self, method: str) -> Run | RankRun:
        self._check_takes_points(method)
        running = self._is_running(self._run)
        if running is None:
            raise TraceletError(
                f"{method}: the run is another process'. This one can log points into it; call "
                f"{method} in the process that started it"
            )
        return running

    def __repr__(self) -> str:
        return f"<tracelet.Experiment {self.name!r} id={self.id!r}>"

    def _repr_html_(self) -> str:
        """For notebooks: the name, where the run is, and what became of its points."""
        from tracelet.notebook import as_html

        return as_html(self)


def _check_name(method: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{method}: name must be a str that is not empty, not {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{method}: the name {name!r} can't be written as UTF-8") from None
