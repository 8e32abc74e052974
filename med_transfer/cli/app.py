"""The command line: ``med-transfer COMMAND``. Each command is one file here; heavy packages load when it runs.

Exit codes: 0 done; 1 some scans failed but the rest is written; 2 wrong usage or input; 3 nothing could be done.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from med_transfer.backbones.monai_alone import monai_alone
from med_transfer.cli import (
    backbones,
    bundle,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    finetune,
    index,
    inspect,
    labels,
    merge,
    node,
    phantom,
    plan,
    predict,
    pretrain,
    preview,
    report,
    select,
    serve,
    tune,
)
from med_transfer.cli.options import example
from med_transfer.cli.terminal import TerminalHandler, discard, open_standard_streams, plain_streams, tell_remarks
from med_transfer.errors import MedTransferError, OutputError

_WORDS_OF_OTHER_TOOLS = {
    **dict.fromkeys(("train", "fit", "fine-tune"), "finetune"),
    **dict.fromkeys(("test", "validate"), "evaluate"),
    **dict.fromkeys(("infer", "inference"), "predict"),
    **dict.fromkeys(("help", "version"), "--{}"),
}


class _Commands(TyperGroup):
    """The commands. The word that another tool has for one of them is answered with ours, not with a similar word."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and (ours := _WORDS_OF_OTHER_TOOLS.get(args[0])):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {ours.format(args[0])!r}?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    name="med-transfer",
    help="Transfer learning for CT and other volumetric scans, with honest per-class sensitivity. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    *(demo, phantom, index, inspect, plan, preview, pretrain, select, tune),
    *(finetune, evaluate, report, compare, predict, merge, explain, export, serve, doctor),
):
    app.command(module.NAME, epilog=example(f"{module.NAME} {module.EXAMPLE}"))(module.command)
app.add_typer(backbones.app, name=backbones.NAME)
app.add_typer(bundle.app, name=bundle.NAME)
app.add_typer(labels.app, name=labels.NAME)
app.add_typer(node.app, name=node.NAME)

INTERRUPTED = 130  # 128 + SIGINT, as shells count
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h: a fault of ours, not of the input


def _say_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"med-transfer {metadata.version('med-transfer')}\n")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_say_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Suppress progress and warnings on stderr.")] = False,
    read_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Time limit for reading one scan; 0: no limit; default: 300.", show_default=False),
    ] = None,
    read_gib: Annotated[
        float | None,
        typer.Option(min=0, help="Memory limit for reading one scan; 0: no limit; default: 8.", show_default=False),
    ] = None,
) -> None:
    """Options before the command."""
    for name, limit in (("MED_TRANSFER_READ_SECONDS", read_seconds), ("MED_TRANSFER_READ_GIB", read_gib)):
        if limit is not None:
            os.environ[name] = str(limit)
    handler = TerminalHandler()
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)  # a run's log file lowers the level of the loggers
    level = logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[handler])
    _settings["debug"], _settings["quiet"] = debug, quiet


_settings = {"debug": False, "quiet": False}
_received: list[int] = []  # of the signals that end a command, but Ctrl-C


def main() -> None:
    """Entry point: an error of the tree is one line on stderr and an exit code, never a traceback."""
    before, sys.unraisablehook = sys.unraisablehook, _in_destructor
    open_standard_streams()
    try:
        with plain_streams(), monai_alone(), _ended_as_by_ctrl_c():
            _run()
    finally:
        sys.unraisablehook = before


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM (``kill``, ``docker stop``, SLURM) and SIGHUP (a terminal that closes) do meanwhile what Ctrl-C does.

    Left to the system they end the process at once: half-written files and unpacked scans stay behind, and the first
    process of a container does not hear them at all. A job that treats Ctrl-C in its own way treats them so, too.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]  # nohup ignores SIGHUP
    try:
        for number in ours:
            signal.signal(number, _end)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    of_ctrl_c = signal.getsignal(signal.SIGINT)
    if not callable(of_ctrl_c):  # a shell ignores Ctrl-C for what it runs in the background
        raise KeyboardInterrupt
    of_ctrl_c(signal.SIGINT, frame)


def _in_destructor(failure: sys.UnraisableHookArgs) -> None:
    """Ctrl-C leaves half-made objects of the libraries, whose destructors fail: nothing that a user can act on."""
    if _settings["debug"]:
        sys.__unraisablehook__(failure)


def _run() -> None:
    try:
        try:
            _program()()
        finally:
            tell_remarks()
            sys.stdout.flush()
    except MedTransferError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has already turned Ctrl-C into this
            _stopped()
        raise
    except KeyboardInterrupt:  # before typer's part, or after it
        _stopped()
    except OSError as error:
        where = error.filename or "output"
        if not error.filename:
            discard(sys.stdout)
        _fail(str(OutputError(error.strerror or type(error).__name__, where=where)), OutputError.exit_code)
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error}. Please report it with the output of --debug", UNEXPECTED)


@functools.cache
def _program() -> Callable[[], object]:
    """Every command with its options: as long to make as to import this package, so once for all calls."""
    return get_command(app)


def _stopped() -> None:
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)  # one more ends what ends anyway, and says no more
    _fail("stopped; run the same command again to continue", 128 + _received[0] if _received else INTERRUPTED)


def _fail(message: str, code: int) -> None:
    if _settings["debug"]:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)
