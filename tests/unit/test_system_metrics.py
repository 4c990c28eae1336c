"""What the machine does, as series of a run."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import tracelet
from tracelet import places
from tracelet.cli import main
from tracelet.monitor import gpus
from tracelet.monitor.cgroups import cpu_limit, memory_limit
from tracelet.pipeline import lifecycle

psutil = pytest.importorskip("psutil")
from tracelet.monitor.system import System, SystemSampler  # noqa: E402

ALWAYS = {
    "system/cpu_percent", "system/memory_gib", "system/memory_percent", "system/disk_percent",
    "system/process_cpu_percent", "system/process_memory_gib",
}  # fmt: skip
FAST = {"system_metrics": True, "system_interval_s": 0.1}


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def second(root: Path, mount_root: str, own: str, **groups: str) -> str:
    """A machine with cgroups of version 2."""
    mount = f"30 23 0:26 {mount_root} /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    files = {"proc/self/mountinfo": f"1 0 8:1 / / rw - ext4 /dev/sda rw\n{mount}",
             "proc/self/cgroup": f"0::{own}\n"}  # fmt: skip
    return tree(root, {**files, **{f"sys/fs/cgroup/{name}": text for name, text in groups.items()}})


def wait_until(condition, what: str) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def test_a_container_s_own_limits_stand_in_for_the_machine(tmp_path):
    root = second(
        tmp_path, "/docker/abc", "/docker/abc",
        **{"memory.max": "1073741824\n", "memory.current": "700000000\n",
           "memory.stat": "anon 5\ninactive_file 100000000\n",
           "cpu.max": "150000 100000\n", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n"},
    )  # fmt: skip
    memory, cpus = memory_limit(root), cpu_limit(root)
    assert (memory.most, memory.used()) == (1 << 30, 600_000_000)
    assert (cpus.most, cpus.used()) == (1.5, 2.5)
    system = System(str(tmp_path), root)
    system.sample(10.0)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 4000000\n")
    values = system.sample(12.0)
    assert values["system/cpu_percent"] == pytest.approx(50.0)  # 1.5 s of the 3 s that there were
    assert values["system/memory_gib"] == pytest.approx(600_000_000 / (1 << 30))
    assert values["system/memory_percent"] == pytest.approx(100 * 600_000_000 / (1 << 30))


def test_the_lowest_of_several_levels_counts_with_what_is_used_there(tmp_path):
    root = second(
        tmp_path, "/", "/job/step",
        **{"job/memory.max": "1000\n", "job/memory.current": "900\n",
           "job/memory.stat": "inactive_file 0\n", "job/step/memory.max": "max\n",
           "job/step/cpu.max": "max 100000\n", "job/cpu.max": "400000 100000\n",
           "job/cpu.stat": "usage_usec 1000000\n"},
    )  # fmt: skip
    assert (memory_limit(root).most, memory_limit(root).used()) == (1000, 900)
    assert (cpu_limit(root).most, cpu_limit(root).used()) == (4.0, 1.0)


def test_limits_of_version_1_with_each_controller_in_a_place_of_its_own(tmp_path):
    mounts = "".join(
        f"{n} 1 0:{n} / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{controllers}\n"
        for n, (name, controllers) in enumerate(
            [("memory", "memory"), ("cpu", "cpu"), ("cpuacct", "cpuacct")], start=30
        )
    )
    root = tree(tmp_path, {
        "proc/self/mountinfo": mounts,
        "proc/self/cgroup": "4:memory:/job\n2:cpuacct:/job\n1:cpu:/job\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "4000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "3000\n",
        "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpuacct/job/cpuacct.usage": "3000000000\n",
    })  # fmt: skip
    assert (memory_limit(root).most, memory_limit(root).used()) == (4000, 2000)
    assert (cpu_limit(root).most, cpu_limit(root).used()) == (2.0, 3.0)


@pytest.mark.parametrize(
    "files",
    [{}, {"proc/self/mountinfo": "\0nonsense - \n - cgroup2\n", "proc/self/cgroup": "a\n::\n"},
     {"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
      "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "", "sys/fs/cgroup/cpu.max": "0 0"},
     {"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
      "proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/memory.max/x": ""}],
    ids=["nothing", "nonsense", "empty", "folders"],
)  # fmt: skip
def test_groups_that_can_t_be_read_are_no_limit(tmp_path, files):
    root = tree(tmp_path, files)
    assert (memory_limit(root), cpu_limit(root)) == (None, None)
    values = System(str(tmp_path), root)
    values.sample(1.0)
    assert values.sample(2.0).keys() >= ALWAYS


def test_a_source_that_fails_is_told_once_and_costs_the_others_nothing(
    tmp_path, monkeypatch, caplog
):
    def fails(*arguments, **options):
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "net_io_counters", fails)
    monkeypatch.setattr(psutil, "virtual_memory", fails)
    monkeypatch.setattr("tracelet.monitor.system.memory_limit", lambda root: None)
    system = System(str(tmp_path))
    for now_s in (1.0, 2.0, 12.5):
        values = system.sample(now_s)
    assert "system/disk_percent" in values
    assert not any("memory_gib" in name and "process" not in name for name in values)
    assert sorted(each.args[0] for each in caplog.records) == ["memory", "network"]


def test_a_counter_that_begins_anew_is_no_negative_rate(tmp_path, monkeypatch):
    counts = iter([(5_000, 5_000), (10, 10), (10 + 30 * (1 << 20), 10)])

    def counters(nowrap):
        received, sent = next(counts)
        return types.SimpleNamespace(bytes_recv=received, bytes_sent=sent)

    monkeypatch.setattr(psutil, "net_io_counters", counters)
    system = System(str(tmp_path))
    first, anew = system.sample(1.0), system.sample(2.0)
    assert not any("network" in name for name in system.sample(11.9))  # each 10 s
    third = system.sample(12.0)
    name = "system/network_received_mib_per_s"
    assert name not in first
    assert name not in anew
    assert (third[name], third["system/network_sent_mib_per_s"]) == (3.0, 0.0)


class NoGpuError(Exception):
    pass


def nvml_of(fails: set[str]) -> types.ModuleType:
    """A pynvml with one GPU, that says `NVMLError` where it is told to: there is no GPU here."""
    found = types.ModuleType("pynvml")
    found.NVMLError, found.NVML_TEMPERATURE_GPU = NoGpuError, 0
    answers = {
        "nvmlInit": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": "gpu",
        "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=70),
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(used=1 << 30, total=4 << 30),
        "nvmlDeviceGetPowerUsage": 250_000, "nvmlDeviceGetTemperature": 61,
    }  # fmt: skip

    def answering(name):
        def answer(*arguments):
            if name in fails:
                raise NoGpuError(name)
            return answers[name]

        return answer

    for name in answers:
        setattr(found, name, answering(name))
    return found


def test_what_a_gpu_can_t_say_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml_of({"nvmlDeviceGetUtilizationRates"}))
    assert gpus.open_gpus().sample() == {
        "gpu0_memory_gib": 1.0, "gpu0_memory_percent": 25.0, "gpu0_power_w": 250.0,
        "gpu0_temperature_c": 61.0,
    }  # fmt: skip
    for broken in ("nvmlInit", "nvmlDeviceGetCount"):
        monkeypatch.setitem(sys.modules, "pynvml", nvml_of({broken}))
        assert gpus.open_gpus() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # it is not installed
    assert gpus.open_gpus() is None


def test_the_series_are_in_the_run_with_seconds_for_steps_and_counted_as_what_they_are(tmp_path):
    config = {**FAST, "log_dir": str(tmp_path / "log")}
    with tracelet.start_logging("s", "tests", backend="tensorboard", config=config) as run:
        run.log_metric("mine", 1.0, 0)
        wait_until(lambda: run.stats.system_points > 30, "no samples")
    logs = tracelet.read(tmp_path / "log")
    assert ALWAYS | {"mine"} <= set(logs.tags["scalars"])
    steps = logs.scalars("system/cpu_percent").steps
    assert steps[0] == 0
    assert (steps[1:] >= steps[:-1]).all()
    stats = run.stats
    assert stats.system_points == stats.accepted - 1
    total = sum(len(logs.scalars(tag).steps) for tag in logs.tags["scalars"])
    assert stats.delivered["tensorboard"] == stats.accepted == total


def test_samples_wait_for_the_first_writer_s_folder(tmp_path):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    with tracelet.start_logging("s", "tests", backend="tensorboard", config=FAST) as run:
        sampler = lifecycle.active_run()._monitors._sampler
        wait_until(lambda: sampler._system._asked, "no sample")
        assert run.stats.accepted == 0
        SummaryWriter(str(tmp_path / "log")).add_scalar("mine", 1.0, 0)
        wait_until(lambda: run.stats.system_points > 0, "no samples")
    assert "system/cpu_percent" in tracelet.read(tmp_path / "log").tags["scalars"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("config", "variables", "is_sampled"),
    [
        ({}, {}, True),
        ({"system_metrics": False}, {}, False),
        ({}, {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, False),
        ({}, {"RANK": "4", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, True),  # of the second node
    ],
)
def test_there_is_one_sampler_a_node_and_none_unasked(monkeypatch, config, variables, is_sampled):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracelet.start_logging("s", "tests", backend="tensorboard", config={**FAST, **config})
    monitors = lifecycle.active_run()._monitors
    assert (monitors is not None and monitors._sampler is not None) == is_sampled
    tracelet.stop_logging()
    assert "tracelet-system" not in [thread.name for thread in threading.enumerate()]


class Own(tracelet.Backend):
    """A tracker whose SDK samples by itself."""

    name, samples_system = "own", True


def test_no_sampler_where_each_backend_has_its_own():
    tracelet.register_sink("own", lambda info: Own())
    for backend, is_sampled in ((["own"], False), (["own", "tensorboard"], True)):
        tracelet.start_logging("s", "tests", backend, config=FAST)
        sampler = lifecycle.active_run()._monitors
        assert (sampler is not None and sampler._sampler is not None) == is_sampled
        tracelet.stop_logging()


def test_without_psutil_the_run_goes_on_and_it_is_told_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "tracelet.monitor.system")
    monkeypatch.setattr(places, "_warned", set())
    for _ in range(2):
        experiment = tracelet.start_logging("s", "tests", backend="tensorboard", config=FAST)
        experiment.log_metric("a", 1.0, 0)
        tracelet.stop_logging()
        assert experiment.stats.accepted == 1
    assert caplog.text.count("system_metrics needs the package psutil") == 1


def test_doctor_says_what_system_metrics_lack(monkeypatch, capsys, tmp_path):
    from tracelet.commands import doctor

    monkeypatch.setattr(doctor, "gpu_names", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    main(["doctor", "--runs-dir", str(tmp_path / "runs"), "--timeout-s", "1"])
    line = next(each for each in capsys.readouterr().out.splitlines() if "system metrics" in each)
    assert line.startswith("ok    system metrics: no psutil, no nvidia-ml-py for the GPUs")
    assert "pip install 'tracelet[system]'" in line


class Hangs:
    """A disk that is gone: the second sample never returns."""

    def __init__(self):
        self.count, self.is_in, self.go = 0, threading.Event(), threading.Event()

    def sample(self, now_s):
        self.count += 1
        if self.count > 1:
            self.is_in.set()
            self.go.wait(60)
        return {"system/a": 1.0}


def test_an_end_amid_a_sample_that_hangs_waits_no_longer_and_nothing_comes_after_it():
    logged = []
    system = Hangs()
    sampler = SystemSampler(system, lambda values, step: logged.append(values), 0.01)
    sampler.start()
    assert system.is_in.wait(60)
    start_s = time.monotonic()
    sampler.end(0.05)
    assert time.monotonic() - start_s < 30
    system.go.set()
    sampler.join(60)
    assert not sampler.is_alive()
    assert logged == []


def test_a_forked_child_samples_nothing(tmp_path):
    config = {**FAST, "log_dir": str(tmp_path / "log")}
    with tracelet.start_logging("s", "tests", backend="tensorboard", config=config) as run:
        wait_until(lambda: run.stats.system_points > 0, "no samples")
        pid = os.fork()
        if pid == 0:
            names = [thread.name for thread in threading.enumerate()]
            os._exit(names.count("tracelet-system"))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_ended_run_s_sampler_holds_no_ring(tmp_path):
    """A ring stays mapped for as long as somebody has it, and users hold on to their experiment."""
    config = {**FAST, "log_dir": str(tmp_path / "log")}
    with tracelet.start_logging("s", "tests", backend="tensorboard", config=config) as run:
        wait_until(lambda: run.stats.system_points > 0, "no samples")
        monitors = lifecycle.active_run()._monitors
    assert monitors._sampler is None
    assert run.stats.system_points > 0


def test_a_process_that_ends_without_a_stop_is_not_held_up(run_script):
    script = """
    import time, tracelet
    config = {"system_metrics": True, "system_interval_s": 1000, "log_dir": "log"}
    run = tracelet.start_logging("s", "tests", backend="tensorboard", config=config)
    run.log_metric("a", 1.0, 0)
    print("over")
    """
    start_s = time.monotonic()
    assert run_script(script).stdout == "over\n"
    assert time.monotonic() - start_s < 300
