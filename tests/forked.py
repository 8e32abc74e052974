"""Python processes with everything loaded that commands load: otherwise most of them would do little but import.

They are forks of a server that does nothing but import, so that they share no thread, lock or port with the tests.
Tests of start-up itself, and of the interpreter's exit, start a new Python.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["loaded_by_commands"])


def python(*words: object, out: Path, err: Path | None = None, environment: Mapping[str, str] = {}) -> BaseProcess:
    """``python WORDS``, begun: ``-m`` a module or ``-c`` code, and their words.

    Args:
        out, err: files that it adds what it says to; None: one for both.
        environment: variables beside those of this process.
    """
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    begun = SERVER.Process(target=_run, args=([*map(str, words)], own, out, err or out))
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}):
        begun.start()  # and the server, the first time
    return begun


def _run(words: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    kind, what, *rest = words
    try:
        if kind == "-m":
            sys.argv = ["", *rest]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [kind, *rest]
            exec(what, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
