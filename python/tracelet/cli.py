"""The command `tracelet`: a table of its subcommands, each a module of `tracelet.commands`.

A command's module has `HELP` (one line), `add_arguments(parser)` and `run(arguments)`, which
returns the exit code: 0 done, 1 not (all) done and worth trying again, 2 used wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import keyword
import os
import sys
from collections.abc import Sequence

from tracelet._version import __version__
from tracelet.errors import TraceletError

COMMANDS = (
    "runs",
    "show",
    "compare",
    "tail",
    "top",
    "export",
    "import",
    "sync",
    "clean",
    "doctor",
    "version",
)
"""By name; the module of one that is a word of Python's has a "_" behind it."""

_CHANGING = ("import", "sync", "clean")
"""What these were to do may be half done when nobody reads any more what they say."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; `argv` is what follows the program's name. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tracelet", description="Look at runs, follow them, and send what they have left."
    )
    parser.add_argument("--version", action="version", version=f"tracelet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        file = f"{name}_" if keyword.iskeyword(name) else name
        module = importlib.import_module(f"tracelet.commands.{file}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run_command=module.run)
        command.set_defaults(is_changing=name in _CHANGING)
    _prepare_output()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run_command"):
        parser.print_help()
        return 0
    try:
        code = int(arguments.run_command(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if arguments.is_changing else 0
    except TraceletError as error:
        print(f"tracelet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntracelet: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _prepare_output() -> None:
    """What is printed goes somewhere, whatever the names of runs are made of: Python has no stdout
    where it was closed (`>&-`), and one for a terminal of another encoding raises an error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # of a pipe that is also read from
                stream.reconfigure(errors="backslashreplace" if name == "stderr" else "replace")
