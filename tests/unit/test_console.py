"""What the process prints, as an artifact of the run."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import Callable

import pytest
import tracelet
from tracelet.cli import main
from tracelet.monitor import console
from tracelet.monitor.console import Console, ConsoleFile
from tracelet.pipeline import lifecycle


def begun(path: Path) -> Console:
    made = Console(str(path))
    made.begin()
    return made


def start(name: str = "c", **config: object) -> tracelet.Experiment:
    return tracelet.start_logging(
        name, "tests", backend="tensorboard", config={"console": True, "log_dir": "log", **config}
    )


def kept(name: str = "console.log") -> str:
    return (Path("log") / "artifacts" / name).read_text()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[io.StringIO, io.StringIO]]:
    """Puts two into the place of those that pytest sets for the test's own part."""

    def put() -> tuple[io.StringIO, io.StringIO]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return put


def test_what_is_printed_is_shown_and_is_an_artifact_of_the_run(streams):
    out, err = streams()
    logger = logging.getLogger("some.user")
    logger.addHandler(handler := logging.StreamHandler())  # holds on to the stream of now
    with start() as run:
        print("one", 1)
        print("two", file=sys.stderr)
        logger.warning("three")
        sys.stdout.writelines(["fo", "ur\n"])
        print("no end", end="")
    print("later")
    logger.removeHandler(handler)
    assert kept() == "one 1\ntwo\nthree\nfour\nno end\n"
    assert out.getvalue() == "one 1\nfour\nno endlater\n"
    assert err.getvalue() == "two\nthree\n"
    assert run.stats.artifacts == {"uploaded": 1}
    assert run.stats.accepted == 0


def test_it_is_off_unless_asked_for_and_an_empty_one_is_no_artifact(streams):
    streams()
    with tracelet.start_logging("c", "tests", "tensorboard", {"log_dir": "log"}):
        print("one")
    with start() as run:
        pass
    assert not Path("log/artifacts").exists()
    assert run.stats.artifacts == {}


def test_the_streams_are_as_they_were_also_where_others_have_been_at_them_between(streams):
    out, err = streams()
    run = start()
    others = sys.stderr.write

    def wrapped(text: str) -> int:
        return others(f"<{text}>")

    sys.stderr.write = wrapped
    sys.stderr.write("a")
    run.stop()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert "write" not in vars(out)
    assert sys.stderr.write is wrapped  # it is theirs to take away
    sys.stderr.write("b")
    assert err.getvalue() == "<a><b>"
    assert kept() == "<a>\n"
    with start():  # another run over what is left of the first, which goes with the wrapper
        sys.stderr.write("c")
    assert sys.stderr.write is wrapped
    del sys.stderr.write
    assert err.getvalue() == "<a><b><c>"


def test_a_run_inside_another_and_the_one_around_it_ends_first(streams):
    out, _ = streams()
    with start("outer", log_dir="outer") as outer:
        print("of the outer")
        with tracelet.logging(backend="tensorboard", exp_name="inner", project="tests"):
            print("of both")
        outer.stop()
    assert "write" not in vars(out)
    found = (Path("outer") / "artifacts" / "console.log").read_text()
    assert found.startswith("of the outer\n")


def test_two_captures_that_end_in_the_wrong_order_leave_nothing(streams, tmp_path):
    out, err = streams()
    first, second = begun(tmp_path / "1"), begun(tmp_path / "2")
    print("both")
    first.end()
    print("second")
    second.end()
    print("none")
    assert "write" not in vars(out)
    assert "write" not in vars(err)
    assert (tmp_path / "1").read_text() == "both\n"
    assert (tmp_path / "2").read_text() == "both\nsecond\n"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["\r  0%", "\r 50%", "\r100%", "\n"], "100%\n"),
        (["a\r\nb\r\n"], "a\nb\n"),
        (["\r 10%", "\r 20%\r"], " 20%\n"),
        (["x" * 100_000], "x" * 100_000 + "\n"),
        (["\n\n", "a\n"], "\n\na\n"),
        (["half \ud800\n"], "half \\ud800\n"),
        ([f"\r{n:5}" for n in range(100_000)], "99999\n"),
    ],
    ids=["bar", "crlf", "left", "long", "blank", "surrogate", "many"],
)
def test_lines_are_kept_as_a_terminal_shows_them_in_the_end(tmp_path, texts, found):
    file = ConsoleFile(str(tmp_path / "c"))
    for text in texts:
        file.feed("stdout", text)
        assert sum(map(len, file._pending.values())) <= 1 << 16
    file.end()
    assert (tmp_path / "c").read_text() == found
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600


def test_it_is_bounded_and_says_so_in_the_file_and_once_by_logging(tmp_path, caplog):
    file = ConsoleFile(str(tmp_path / "c"), most_bytes=1 << 20)
    for _ in range(3_000):
        file.feed("stdout", "y" * 999 + "\n")
    file.end()
    text = (tmp_path / "c").read_text()
    assert len(text) < (1 << 20) + 200
    assert text.endswith("(tracelet: what follows is not kept: it has reached 1 MiB)\n")
    assert len(caplog.records) == 1


def test_a_disk_that_takes_nothing_costs_no_print_and_its_own_warning_comes_back_harmlessly(
    streams, tmp_path, monkeypatch
):
    def fails(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    out, err = streams()
    logger = logging.getLogger("tracelet")
    logger.addHandler(handler := logging.StreamHandler())  # prints the warning, to our own stream
    try:
        captured = begun(tmp_path / "c")
        monkeypatch.setattr(console.os, "write", fails)
        for _ in range(3):
            print("on")
        captured.end()
    finally:
        logger.removeHandler(handler)
    assert out.getvalue() == "on\non\non\n"
    assert err.getvalue().count("No space left") == 1


def test_a_file_that_can_t_be_made_is_told_and_the_run_goes_on(streams, monkeypatch, caplog):
    out, _ = streams()

    def fails(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tracelet.backends.kept_artifacts.keep_growing", fails)
    with start() as run:
        print("shown")
        run.log_metric("a", 1.0, 0)
    assert "Read-only file system" in caplog.text
    assert run.stats.delivered == {"tensorboard": 1}
    assert "write" not in vars(out)


def test_several_backends_get_it_and_without_hard_links_none_is_left(streams, monkeypatch, caplog):
    streams()
    tracelet.register_sink("plain", lambda info: Plain())
    with tracelet.start_logging("c", "tests", ["tensorboard", "plain"], {"console": True}) as run:
        print("x")
    assert run.stats.artifacts == {"uploaded": 1}
    assert list(run.stats.not_taken) == ["plain: no form for artifacts"]

    def fails(*paths: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fails)
    with tracelet.start_logging("d", "tests", ["tensorboard", "plain"], {"console": True}) as run:
        print("x")
        folder = lifecycle.active_run().folder.artifacts_path
        assert os.listdir(folder) == []
    assert "what is printed is not kept" in caplog.text
    assert run.stats.artifacts == {}
    assert os.listdir("tracelet-runs") == []


class Plain(tracelet.Backend):
    """A tracker without a form for artifacts."""

    name = "plain"


def test_errors_of_a_stream_are_the_caller_s_and_odd_streams_are_left_alone(
    tmp_path, monkeypatch, caplog
):

    class NoDict:
        __slots__ = ()

        def write(self, text: str) -> int:
            return 0

    closed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", NoDict())
    captured = begun(tmp_path / "c")
    assert "printed to stderr is not kept" in caplog.text
    closed.close()
    with pytest.raises(ValueError, match="closed file"):
        print("x")
    captured.end()
    monkeypatch.setattr(sys, "stdout", None)
    begun(tmp_path / "d").end()


def test_threads_lose_no_line_and_mix_none(streams, tmp_path):
    streams()
    captured = begun(tmp_path / "c")

    def work(number: int) -> None:
        for line in range(500):
            sys.stdout.write(f"{number} {line}\n")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    captured.end()
    lines = (tmp_path / "c").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {line}" for n in range(8) for line in range(500))


def test_a_signal_s_handler_may_print_amid_a_print(streams, tmp_path):
    streams()
    captured = begun(tmp_path / "c")
    real, is_in = captured.file._write, []

    def interrupted(text: str) -> None:
        if not is_in:
            is_in.append(True)
            signal.raise_signal(signal.SIGUSR1)  # with the lock held
        real(text)

    captured.file._write = interrupted
    before = signal.signal(signal.SIGUSR1, lambda *_: print("of the handler"))
    try:
        print("first")
        print("last")
    finally:
        signal.signal(signal.SIGUSR1, before)
        captured.end()
    assert sorted((tmp_path / "c").read_text().splitlines()) == ["first", "last", "of the handler"]


def test_a_forked_child_prints_as_ever_and_is_not_kept(run_script):
    done = run_script(
        """
        import os, tracelet, warnings
        warnings.simplefilter("ignore")  # Python 3.12 and later warn of a fork beside threads
        run = tracelet.start_logging("c", "tests", "tensorboard",
                                     {"console": True, "log_dir": "log"})
        print("of the parent", end=" ", flush=True)
        pid = os.fork()
        if pid == 0:
            print("of the child", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("again")
        tracelet.stop_logging()
        """
    )
    assert done.stdout.splitlines() == ["of the parent of the child", "again"]
    assert kept() == "of the parent again\n"


def test_of_a_killed_process_sync_sends_each_whole_line(run_script, capsys):
    done = run_script(
        """
        import os, tracelet
        run = tracelet.start_logging("killed", "tests", "tensorboard",
                                     {"console": True, "log_dir": "log"})
        run.log_metric("a", 1.0, 0)
        for n in range(100):
            print("line", n)
        assert run.flush(60)  # the console alone is left
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    assert done.returncode != 0
    assert not Path("log/artifacts").exists()
    assert main(["sync", "--all"]) == 0
    assert kept() == "".join(f"line {n}\n" for n in range(100))
    assert main(["sync", "--all"]) == 0


def test_a_traceback_that_ends_the_process_is_in_it(run_script):
    done = run_script(
        """
        import tracelet
        tracelet.start_logging("c", "tests", "tensorboard", {"console": True, "log_dir": "log"})
        print("begins")
        raise RuntimeError("the end of it")
        """,
        check=False,
        is_new=True,
    )
    assert done.returncode == 1
    assert kept().startswith("begins\nTraceback")
    assert kept().endswith("RuntimeError: the end of it\n")


def test_a_disk_that_hangs_holds_up_no_more_than_some_mebibytes(tmp_path):
    file = ConsoleFile(str(tmp_path / "c"))
    with file._lock:  # a thread is in a write that does not come back
        for _ in range(100):
            file.feed("stdout", "x" * (1 << 20) + "\n")
        waiting = list(file._queue)
    assert 4 <= len(waiting) <= 6
    file.feed("stdout", "later\n")  # finds it free again
    file.feed("stdout", "and later\n")
    file.end()
    *lines, told, last = (tmp_path / "c").read_text().splitlines()
    assert len(lines) == len(waiting)
    n = (100 - len(waiting)) * ((1 << 20) + 1) + len("later\n")
    assert told == f"(tracelet: {n} characters are not kept: the disk was too slow)"
    assert last == "and later"


def test_texts_without_characters_do_not_wait_for_ever(tmp_path):
    file = ConsoleFile(str(tmp_path / "c"))
    with file._lock:
        for _ in range(100_000):
            file.feed("stdout", "")
        assert len(file._queue) < 70_000
    file.end()


class PassesOn:
    """A stream over another, as tqdm's DummyTqdmFile and wrapt's proxies are."""

    def __init__(self, stream: io.StringIO) -> None:
        object.__setattr__(self, "stream", stream)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.stream, name, value)


def test_a_stream_that_passes_on_what_is_set_is_left_as_it_was(tmp_path, monkeypatch, caplog):
    inner = io.StringIO()
    monkeypatch.setattr(sys, "stdout", PassesOn(inner))
    monkeypatch.setattr(sys, "stderr", None)
    for n in range(3):
        made = begun(tmp_path / str(n))
        print("x")
        made.end()
    assert inner.getvalue() == "x\nx\nx\n"
    assert not isinstance(vars(inner).get("write"), console._Write)
    assert "what is printed to stdout is not kept" in caplog.text


class Own(tracelet.Backend):
    """A tracker whose SDK keeps the console by itself."""

    name, captures_console = "own", True


def test_none_where_each_backend_has_its_own(streams):
    out, _ = streams()
    tracelet.register_sink("own", lambda info: Own())
    with tracelet.start_logging("c", "tests", "own", {"console": True}):
        assert "write" not in vars(out)
        print("x")
    with tracelet.start_logging("c", "tests", ["own", "tensorboard"], {"console": True}) as run:
        print("y")
    assert run.stats.artifacts == {"uploaded": 1}
    assert run.stats.not_taken == {}


def test_a_stop_that_is_interrupted_gives_the_streams_back_when_it_is_called_again(
    streams, monkeypatch
):
    out, _ = streams()
    run = start()
    monitors = lifecycle.active_run()._monitors
    real, calls = monitors._end_console, []

    def interrupted() -> None:
        calls.append(True)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real()

    monkeypatch.setattr(monitors, "_end_console", interrupted)
    print("x")
    with contextlib.suppress(KeyboardInterrupt):
        run.stop()
    run.stop()
    tracelet.stop_logging()
    assert "write" not in vars(out)
    assert kept() == "x\n"
    assert os.listdir("tracelet-runs") == []
