"""A run that starts or ends beside a call, and calls that end a run: none sees half of either."""

from __future__ import annotations

import textwrap

import pytest
from readers import event_file_scalars

pytest.importorskip("torch")

_HEAD = """
import tracelet, threading, time, os, sys
from torch.utils.tensorboard import SummaryWriter
def start(name="run", **config):
    return tracelet.start_logging(name, "tests", backend="tensorboard", config=config)
"""


def _script(run_script, body, **options):
    return run_script(_HEAD + textwrap.dedent(body), **options)


def test_a_writer_that_stops_the_run_when_it_is_asked_for_its_suffix(run_script):
    done = _script(
        run_script,
        """
        import numpy
        class Stopping(SummaryWriter):
            @property
            def filename_suffix(self):
                tracelet.stop_logging()
                return ""
            @filename_suffix.setter
            def filename_suffix(self, value):
                pass
        for method, arguments in [
            ("add_scalar", (0.5, 1)),
            ("add_scalars", ({"a": 0.5, "b": 1.5}, 1)),
            ("add_histogram", (numpy.array([0.5, 1.5]), 1)),
            ("add_histogram_raw", (0, 1, 2, 1, 1, [1.0, 2.0], [1, 1], 1)),
        ]:
            experiment = start()
            writer = Stopping("log")
            experiment = start()  # its first call in this run asks for the suffix
            getattr(writer, method)("tag", *arguments)
            assert tracelet.get_active_experiment() is None
            assert experiment.stats.accepted == 0, experiment.stats
        print("survived")
        """,
    )
    assert done.stdout.split()[-1] == "survived"


@pytest.mark.slow
def test_user_code_that_starts_another_run_within_a_call(run_script, tmp_path):
    """What the call logs is in the run that is active at its end, under its own tag."""
    _script(
        run_script,
        """
        from tracelet import _core
        class Restarting:
            def __init__(self, value):
                self.value = value
            def __float__(self):
                tracelet.stop_logging()
                self.experiment = start("inner", log_dir="inner")
                # Other names than before, so that an id of the run before means another thing.
                for number in range(5):
                    self.experiment.log_metric(f"other {number}", 0.0, 0)
                return self.value
        class Entries(dict):
            def items(self):
                tracelet.stop_logging()
                self.experiment = start("inner", log_dir="inner")
                self.experiment.log_metric("other", 0.0, 0)
                return super().items()
        writer = SummaryWriter("log")
        start("outer", log_dir="outer")
        writer.add_scalar("scalar", 0.0, 1)
        writer.add_scalars("main", {"a": 0.0}, 1)
        writer.add_scalar("scalar", Restarting(1.5), 2)
        writer.add_scalars("main", {"a": Restarting(2.5), "b": 3.5}, 2)
        writer.add_scalars("main", Entries(a=4.5), 3)
        tracelet.get_active_experiment().log_metric("metric", Restarting(5.5), 2)
        tracelet.stop_logging()
        """,
    )

    def values(folder, tag):
        return [(step, value) for step, value, _ in event_file_scalars(tmp_path / folder)[tag]]

    assert values("log", "scalar") == [(1, 0.0), (2, 1.5)]
    assert values("log/main_a", "main") == [(1, 0.0), (2, 2.5), (3, 4.5)]
    assert values("log/main_b", "main") == [(2, 3.5)]
    assert values("inner", "metric") == [(2, 5.5)]
    assert set(event_file_scalars(tmp_path / "log")) == {"scalar"}


@pytest.mark.slow
def test_runs_end_and_start_while_threads_log(run_script):
    done = _script(
        run_script,
        """
        end = False
        def log(number):
            writers = [SummaryWriter(f"log/{number}-{each}") for each in range(4)]
            step = 0
            while not end:
                for writer in writers:
                    writer.add_scalar("tag", 0.5, step)
                step += 1
        threads = [threading.Thread(target=log, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for number in range(15):
            experiment = start()
            while experiment.stats.accepted < 100:
                time.sleep(0.001)
            tracelet.stop_logging()
            stats = experiment.stats
            assert stats.delivered["tensorboard"] == stats.accepted and not stats.pending, stats
        end = True
        for thread in threads:
            thread.join()
        print("survived")
        """,
    )
    assert done.stdout.split()[-1] == "survived"


def test_a_tensor_whose_memory_is_replaced_while_it_is_counted(run_script):
    _script(
        run_script,
        """
        import torch
        torch.set_num_threads(1)
        start(histogram_threads=1)
        writer = SummaryWriter("log")
        parameter = torch.nn.Parameter(torch.ones(6_000_000))
        end = False
        def replace():
            while not end:
                parameter.data = torch.ones(6_000_000)
        thread = threading.Thread(target=replace)
        thread.start()
        for step in range(40):
            writer.add_histogram("weights", parameter, step)
        end = True
        thread.join()
        """,
    )


@pytest.mark.slow
def test_a_tensor_whose_memory_is_replaced_by_the_code_that_makes_the_bins(run_script):
    _script(
        run_script,
        """
        import torch
        parameter = torch.nn.Parameter(torch.ones(6_000_000))
        class Edges:
            def __array__(self, *args, **kwargs):
                import numpy
                parameter.data = torch.zeros(3)
                return numpy.array([0.0, 1.0, 2.0])
        start()
        SummaryWriter("log").add_histogram("weights", parameter, 1, bins=Edges())
        counted = tracelet.histogram(torch.ones(6_000_000), bins=[0.0, 1.0, 2.0])
        assert counted.counts.tolist() == [0, 6_000_000]
        """,
    )


@pytest.mark.slow
def test_values_that_change_while_they_are_counted_leave_nothing_for_the_next_histogram(run_script):
    _script(
        run_script,
        """
        import numpy as np
        values = np.full(300_000, 0.5, dtype=np.float32)
        still = np.full(300_000, 0.5, dtype=np.float32)
        end = False
        def change():
            powers = np.float32(10) ** np.arange(-11, 19, dtype=np.float32)
            rng = np.random.default_rng(1)
            while not end:
                values[:] = rng.choice(powers)
        thread = threading.Thread(target=change)
        thread.start()
        for _ in range(1_500):
            changing = tracelet.histogram(values, threads=1)
            assert changing.counts.sum() == len(values)
            counted = tracelet.histogram(still, threads=1)
            assert counted.counts.sum() == len(still) and np.count_nonzero(counted.counts) == 1
        end = True
        thread.join()
        """,
    )


@pytest.mark.slow
def test_the_process_ends_while_threads_log(run_script):
    for number in range(5):
        done = _script(
            run_script,
            """
            import numpy as np
            values = np.ones(2_000_000)
            started = []
            def log(number):
                writer = SummaryWriter(f"log/{number}")
                step = 0
                while True:
                    if number % 3 == 0:
                        tracelet.histogram(values)
                    elif number % 3 == 1:
                        writer.add_histogram("values", values, step)
                    else:
                        writer.add_scalar("tag", 0.5, step)
                    step += 1
                    if step == 2:
                        started.append(number)
            start()
            for number in range(6):
                threading.Thread(target=log, args=(number,), daemon=True).start()
            while len(started) < 6:
                time.sleep(0.001)
            """,
            check=False,
        )
        assert done.returncode == 0, (number, done.returncode, done.stderr[-2000:])


@pytest.mark.slow
def test_a_stop_with_a_time_that_is_none_can_be_repeated(run_script):
    done = _script(
        run_script,
        """
        experiment = start()
        SummaryWriter("log").add_scalar("tag", 0.5, 1)
        try:
            tracelet.stop_logging("30")
        except TypeError as error:
            print(error)
        else:
            raise AssertionError("no error")
        tracelet.stop_logging(30)
        stats = experiment.stats
        assert not experiment.is_active and stats.pending == 0, stats
        assert stats.delivered["tensorboard"] == stats.accepted == 1, stats
        """,
    )
    assert "timeout_s" in done.stdout


def test_tracelet_is_imported_a_second_time(run_script):
    _script(
        run_script,
        """
        first = tracelet
        experiment = start("first")
        writer = SummaryWriter("log")
        writer.add_scalar("tag", 0.5, 1)
        for name in [name for name in sys.modules if name.split(".")[0] == "tracelet"]:
            del sys.modules[name]
        import tracelet
        assert tracelet is not first
        second = tracelet.start_logging("second", "tests", backend="tensorboard")
        assert not experiment.is_active, "one run at a time"
        writer.add_scalar("tag", 1.5, 2)
        tracelet.stop_logging()
        assert experiment.stats.delivered["tensorboard"] == 1, experiment.stats
        assert second.stats.delivered["tensorboard"] == 1, second.stats
        """,
    )
