"""log_histogram, log_audio, log_video, set_tags, set_notes: what is wrong is told at the call, what
is right is in the event file and on ClearML."""

from __future__ import annotations

import io
import os
import wave

import numpy as np
import pytest
import tracelet
from readers import event_files, events, histograms, session_events
from tracelet.runs.history import read_record

pytest.importorskip("tensorboard")
pytest.importorskip("clearml")
Image = pytest.importorskip("PIL.Image")
torch = pytest.importorskip("torch")

TONE = np.sin(np.arange(4410) / 10)
FRAMES = np.zeros((3, 8, 6, 3), np.uint8)
FRAMES[1, ..., 0], FRAMES[2, ..., 1] = 200, 100


def start(backend="tensorboard", **config):
    return tracelet.start_logging("verbs", "tests", backend, {"log_dir": "log", **config})


def values_of(folder="log"):
    (path,) = event_files(folder)
    return [(value, event.step) for event in events(path) for value in event.summary.value]


def test_a_histogram_by_hand_is_that_of_a_summary_writer(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    experiment = start()
    writer = SummaryWriter("writer")
    values = torch.randn(3, 1000)
    for bins in ("tensorflow", 7, "auto", [-1.0, 0.0, 1.0]):
        experiment.log_histogram(f"h/{bins}", values, 5, bins)
        writer.add_histogram(f"h/{bins}", values, 5, bins)
    experiment.log_histogram("h/list", [1, 2, float("nan")])
    with tracelet.logging("tensorboard", exp_name="inner"):
        experiment.log_histogram("h/outer", values, 6)
    assert experiment.stats.not_finite_values == 1
    tracelet.stop_logging()
    ours, theirs = histograms("log"), histograms("writer")
    assert len(theirs) == 4
    for tag in theirs:
        assert ours[tag] == theirs[tag], tag
    assert ours["h/list"][0][1].num == 2
    assert ours["h/outer"][0][0] == 6


def test_audio_is_a_wav_file_of_what_was_given():
    experiment = start(["clearml", "tensorboard"])
    stereo = np.stack([TONE, -TONE])
    experiment.log_audio("a/mono", TONE, 1, sample_rate=8000)
    experiment.log_audio("a/stereo", torch.tensor(stereo), 2)
    experiment.log_audio("a/whole", (stereo.T * 1000).astype(np.int16), 3)
    mono = io.BytesIO()
    with wave.open(mono, "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
        file.writeframes(b"\1\2" * 50)
    experiment.log_audio("a/bytes", mono.getvalue(), 4)
    session = experiment.url
    tracelet.stop_logging()
    found = {step: value.audio for value, step in values_of()}
    with wave.open(io.BytesIO(found[1].encoded_audio_string)) as file:
        samples = np.frombuffer(file.readframes(5000), "<i2")
        assert (file.getnchannels(), file.getframerate()) == (1, 8000)
    assert np.abs(samples / 32767 - TONE).max() < 1e-4
    with wave.open(io.BytesIO(found[2].encoded_audio_string)) as file:
        samples = np.frombuffer(file.readframes(5000), "<i2").reshape(-1, 2)
    assert np.abs(samples.T / 32767 - stereo).max() < 1e-4
    assert (found[3].num_channels, found[3].length_frames) == (2, 4410)
    assert (found[4].encoded_audio_string, found[4].sample_rate) == (mono.getvalue(), 22050)
    sent = [each for each in session_events(session) if each["type"] == "training_debug_image"]
    assert sorted(each["url"].rpartition(".")[2] for each in sent) == ["wav"] * 4


@pytest.mark.parametrize(
    "video",
    [
        FRAMES,
        torch.tensor(FRAMES.transpose(0, 3, 1, 2))[None] / 255,
        FRAMES[..., 0],
    ],
    ids=["channels last", "as for add_video", "gray"],
)
def test_a_video_is_an_animated_gif(video):
    experiment = start()
    experiment.log_video("v/clip", video, 3, fps=5)
    tracelet.stop_logging()
    ((value, step),) = values_of()
    assert (step, value.image.width, value.image.height) == (3, 6, 8)
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        assert (image.n_frames, image.info["duration"]) == (3, 200)
        for number in range(2):  # the third is as the first, in gray
            image.seek(number)
            shown = np.asarray(image.convert("RGB"))[..., 0].astype(int)
            assert np.abs(shown - FRAMES[number, ..., 0]).max() <= 2


def test_what_forms_allow_is_taken():
    """The slowest video, the highest rate, frames of any MP3, and floats that numpy lacks."""
    experiment = start()
    experiment.log_video("v/slow", FRAMES, fps=0.002)
    experiment.log_video("v/bf16", torch.ones(2, 3, 4, 4, dtype=torch.bfloat16))
    experiment.log_audio("a/high", np.zeros((16, 1)), sample_rate=(1 << 31) - 1)
    experiment.log_audio("a/bf16", torch.ones(16, dtype=torch.bfloat16))
    experiment.log_image("i/bf16", torch.ones(3, 4, 4, dtype=torch.bfloat16))
    frames = [b"\xff" + bytes([kind]) + bytes(9) for kind in (0xFA, 0xFB, 0xF2, 0xF3, 0xE3)]
    for number, frame in enumerate(frames):
        experiment.log_audio(f"mp3/{number}", frame)
    with pytest.raises(ValueError, match="no sound file"):
        experiment.log_audio("aac", b"\xff\xf1" + bytes(9))
    tracelet.stop_logging()
    found = {value.tag: value for value, _ in values_of()}
    assert all(found[f"mp3/{n}"].audio.content_type == "audio/mpeg" for n in range(len(frames)))
    with Image.open(io.BytesIO(found["v/slow"].image.encoded_image_string)) as image:
        assert image.info["duration"] == 500_000
    for name in ("v/bf16", "i/bf16"):
        with Image.open(io.BytesIO(found[name].image.encoded_image_string)) as image:
            assert (np.asarray(image.convert("L")) >= 254).all()
    with wave.open(io.BytesIO(found["a/bf16"].audio.encoded_audio_string)) as file:
        assert np.frombuffer(file.readframes(16), "<i2").tolist() == [32767] * 16


WRONG = [
    ("log_histogram", ("h", "text"), "h"),
    ("log_histogram", ("h", [1.0], "5"), "h"),
    ("log_histogram", ("h", [1.0], 1, [2.0, 1.0]), "h"),
    ("log_histogram", (5, [1.0]), "name must be a str"),
    ("log_histogram", ("\udc80", [1.0]), "the name '\\udc80'"),
    ("log_audio", ("a", np.zeros((9, 9))), "9"),
    ("log_audio", ("a", np.zeros(5, np.int32)), "int32"),
    ("log_audio", ("a", b"no sound"), "no sound file"),
    ("log_audio", ("a", b"RIFF"), "WAV"),
    ("log_audio", ("a", TONE, 1, 0), "sample_rate"),
    ("log_audio", ("a", np.zeros((16, 8)), 1, (1 << 31) - 1), "sample_rate=2147483647"),
    ("log_audio", ("a", object()), "samples"),
    ("log_video", ("v", FRAMES, 1, 1e-9), "fps must be a number from 0.002 to 1000, not 1e-09"),
    ("log_video", ("v", FRAMES, 1, float("nan")), "fps"),
    ("log_video", ("v", np.zeros((1, 1, 1 << 16), np.uint8)), "65536 by 1 pixels"),
    ("log_video", ("v", FRAMES[..., :2]), "(3, 8, 6, 2)"),
    ("log_video", ("v", FRAMES[0, 0]), "(6, 3)"),
    ("log_video", ("v", b"\0\0\0 ftypmp42"), "no GIF"),
    ("log_video", ("v", FRAMES, 1, 0), "fps"),
    ("set_tags", ("baseline",), "list of str"),
    ("set_tags", ([1],), "list of str"),
    ("set_tags", (["a", " "],), "blank"),
    ("set_notes", (5,), "set_notes: text must be a str"),
    ("set_notes", ("a\0b",), "NUL"),
]


def test_what_is_wrong_is_told_at_the_call():
    experiment = start()
    for method, arguments, words in WRONG:
        with pytest.raises((TypeError, ValueError)) as told:
            getattr(experiment, method)(*arguments)
        assert words in str(told.value), (method, str(told.value))
    for method in ("log_audio", "log_video"):
        with pytest.raises(FileNotFoundError, match=method):
            getattr(experiment, method)("a", "gone.wav")
    tracelet.stop_logging()
    assert experiment.stats.accepted == 0
    for method in ("log_histogram", "log_audio", "log_video"):
        with pytest.raises(tracelet.TraceletError, match="has ended"):
            getattr(experiment, method)("a", TONE if method != "log_video" else FRAMES)
    with pytest.raises(tracelet.TraceletError, match="has ended"):
        experiment.set_tags(["late"])


class Takes(tracelet.Backend):
    """Parameters, and no form for tags."""

    name = "takes"

    def __init__(self):
        self.params = {}

    def log_params(self, params, given, later):
        self.params.update(params)


def test_a_backend_without_a_form_takes_the_nearest_and_says_so(caplog, monkeypatch):
    monkeypatch.setattr("tracelet.places._warned", set())
    takes = Takes()
    tracelet.register_sink("takes", lambda info: takes)
    tracelet.register_sink("lacks", lambda info: [])
    experiment = start(["takes", "lacks"])
    experiment.set_tags(["a", "b"])
    experiment.set_notes("words")
    tracelet.stop_logging()
    assert takes.params == {"tags": "a, b", "notes": "words"}
    assert experiment.stats.not_taken == {"lacks: no form for tags and notes": 2}
    told = [each.getMessage() for each in caplog.records]
    assert sum("takes has no form for tags and notes" in each for each in told) == 1
    assert sum("'lacks' can't take it" in each for each in told) == 1


def test_what_a_backend_edits_is_noted_and_given_to_the_next():
    """As the task that an agent runs does: the program goes on with the edited value."""

    class Edits(Takes):
        name = "edits"

        def log_params(self, params, given, later):
            super().log_params(params, given, later)
            given["lr"] = 0.5

    edits, takes = Edits(), Takes()
    tracelet.register_sink("edits", lambda info: edits)
    tracelet.register_sink("takes", lambda info: takes)
    experiment = start(["edits", "takes"])
    params = {"lr": 0.1, "layers": 2}
    experiment.log_params(params)
    tracelet.stop_logging()
    assert (edits.params["lr"], params["lr"]) == (0.1, 0.5)
    assert takes.params == {"lr": 0.5, "layers": 2}
    record = read_record(os.environ["TRACELET_HISTORY_DIR"], experiment.id)
    assert record is not None
    assert record.params == {"lr": 0.5, "layers": 2}


def test_tags_and_notes_follow_the_first_summary_writer(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging("verbs", "tests", "tensorboard")
    experiment.set_tags(["a"])
    experiment.set_notes("words")
    SummaryWriter("writer").add_scalar("x", 1.0, 1)
    tracelet.stop_logging()
    found = {value.tag: value.tensor.string_val[0] for value, _ in values_of("writer")
             if value.HasField("tensor")}  # fmt: skip
    assert found == {"tags/text_summary": b"a", "notes/text_summary": b"words"}
