"""Scripts whose processes are the ranks of one job, each forked before it has imported tracelet."""

from __future__ import annotations

import textwrap

_SCRIPT = """
import os, signal, sys, time, traceback
sys.modules["torch"] = None  # what is tested needs none, and its import takes 2 s

def wait_for(path, deadline_s=120.0):
    end_s = time.monotonic() + deadline_s
    while not os.path.exists(path):
        assert time.monotonic() < end_s, path
        time.sleep(0.005)

def touch(path):
    open(path, "w").close()

def work(rank):
    import tracelet
{body}

def start(rank):
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="{world_size}")
    os.environ.setdefault("TORCHELASTIC_RUN_ID", "a job")
    code = 1
    try:
        work(rank)
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        import atexit
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

pids = {{rank: start(rank) for rank in {ranks}}}
{meanwhile}
codes = {{rank: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for rank, pid in pids.items()}}
print("codes", codes)
"""


def script(body: str, ranks: list[int], world_size: int | None = None, meanwhile: str = "") -> str:
    """`body` is run by each, with `rank`, `tracelet`, `wait_for(path)` and `touch(path)`; they are
    started in the order of `ranks`. `meanwhile` is run by their parent, with `pids` by rank."""
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    world_size = world_size or len(ranks)
    meanwhile = textwrap.dedent(meanwhile)
    return _SCRIPT.format(body=body, ranks=ranks, world_size=world_size, meanwhile=meanwhile)


SINK = """
import json

class LinesSink:
    name, is_remote, takes_every_point = "lines", {is_remote}, True
    record_kinds = (tracelet.SCALAR,)
    def __init__(self):
        self.file = open("lines.jsonl", "a", buffering=1)
    def write(self, batch):
        for each in batch.records:
            row = [batch.tag(each["tag_id"]), int(each["step"]), float(each["value"]),
                   batch.log_dir(each["writer_id"])]
            self.file.write(json.dumps(row) + chr(10))
        return tracelet.Delivery(len(batch))
    def close(self, process_is_ending):
        self.file.close()

tracelet.register_sink("lines", lambda info: LinesSink())
"""
"""A backend whose points are the lines of a file: [tag, step, value, log folder]."""


def sink(is_remote: bool = True) -> str:
    return SINK.format(is_remote=is_remote)
