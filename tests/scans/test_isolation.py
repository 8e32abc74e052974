"""Reading in a separate process: what is returned, and what happens when nothing can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import endings
import numpy as np
import pytest

from med_transfer.errors import GeometryRejected, ScanAborted, UsageError
from med_transfer.scans import isolation
from med_transfer.scans.isolation import isolated
from med_transfer.scans.isolation.limits import GIB, SECONDS, ReadLimits
from med_transfer.scans.isolation.scan_worker import ScanWorker

LOADS = "endings"  # not the readers, which take four times as long to load, in each child anew


@pytest.fixture(scope="module")
def worker():
    with ScanWorker(ReadLimits(gib=1), LOADS) as worker:
        yield worker


def test_arrays_come_back_whole_and_writable(worker):
    array = worker.call(np.arange, 6_000_001, dtype=np.int32)
    assert np.array_equal(array, np.arange(6_000_001, dtype=np.int32))
    array[0] = 1
    assert worker.call(np.asarray, np.asfortranarray(np.eye(3))).flags.f_contiguous
    assert worker.call(np.zeros, (0, 3)).shape == (0, 3)
    assert worker.call(endings.noisy, "said") == "said"


def test_the_readers_are_loaded_before_time_and_memory_are_limited():
    """Else the first scan on a busy machine takes too long, and each after it, since the child begins anew."""
    with ScanWorker() as worker:
        assert worker.call(endings.loaded, ["med_transfer.scans.reading", "pydicom"]) == [True, True]


def test_our_errors_pass_as_they_are(worker):
    with pytest.raises(GeometryRejected, match=r"^slice 3: a gap; expected none\.$"):
        worker.call(endings.end, "rejection")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("memory", "needs more than 1 GiB of memory"),
        ("segfault", r"reading it crashed \(signal 11\)"),
        ("out of memory killer", "the system ended the process that read it, as it does when memory runs out"),
        ("exit", "reading it ended with code 3"),
        ("system exit", "reading it ended with code 4"),
        ("recursion", r"cannot be read \(RecursionError"),
    ],
)
def test_whatever_ends_the_reading_is_the_scans_and_the_next_one_is_read(worker, name, words):
    with pytest.raises(ScanAborted, match=rf"^scan\.nii: .*{words}"):
        worker.call(endings.end, name, where="scan.nii")
    assert worker.call(endings.end, "well") == "well"


def test_what_does_not_answer_costs_its_scans_time_and_the_next_one_is_read():
    with ScanWorker(ReadLimits(seconds=2, gib=1), LOADS) as worker:
        for name in ("hang", "stopped in its answer"):
            with pytest.raises(ScanAborted, match=r"^scan\.nii: not read within 2 s"):
                worker.call(endings.end, name, where="scan.nii")
        worker.limits = None  # of the process that is started now: a busy machine may be slow to answer, too
        assert worker.call(endings.end, "well") == "well"


def test_of_many_the_bad_ones_are_named_and_all_others_come(worker):
    names = ["a", "segfault", "b", "c", "recursion", "memory", "d"]
    results = worker.map(endings.ends, names)
    aborted = {names[place] for place, result in enumerate(results) if isinstance(result, ScanAborted)}
    assert aborted == {"segfault", "recursion", "memory"}
    assert [result for result in results if isinstance(result, str)] == ["a", "b", "c", "d"]


def test_the_child_is_where_its_parent_is_now(worker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MED_TRANSFER_NOTE", "now")
    assert worker.call(endings.surroundings) == (str(tmp_path), "now")
    monkeypatch.delenv("MED_TRANSFER_NOTE")
    assert worker.call(endings.surroundings) == (str(tmp_path), "")


def test_limits_of_the_environment(monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_READ_SECONDS", "7")
    assert ReadLimits.from_environment() == ReadLimits(7, ReadLimits.gib)
    monkeypatch.setenv("MED_TRANSFER_READ_GIB", "much")
    with pytest.raises(UsageError, match=r"MED_TRANSFER_READ_GIB: 'much'; expected a number, 0 or more"):
        ReadLimits.from_environment()


def test_limits_of_the_command_line(command, monkeypatch, tmp_path):
    for name in (SECONDS, GIB):
        monkeypatch.setenv(name, "")  # so that it is put back
    command("--read-seconds", 60, "--read-gib", 2.5, "inspect", tmp_path)
    assert ReadLimits.from_environment() == ReadLimits(60, 2.5)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ScanWorker(loads=LOADS) as worker:
        assert worker.call(tempfile.mkdtemp).startswith(str(tmp_path))
        child = worker.call(os.getpid)
    assert not is_running(child)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_where_ctrl_c_ends_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = ScanWorker(loads=LOADS)
    worker.call(os.getpid)
    assert worker._child is not None

    def ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    with worker._child.process as process, monkeypatch.context() as patch:
        patch.setattr(process, "wait", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            worker.close()
    assert list(tmp_path.iterdir()) == []


def test_a_close_from_another_thread_ends_one_child_and_not_the_next(tmp_path, monkeypatch):
    """The next one is started while the first one is being ended; the end of the first took the next one's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ScanWorker(loads=LOADS) as worker:
        worker.call(os.getpid)
        assert worker._child is not None
        first = worker._child.process
        wait, starting = first.wait, threading.Thread(target=worker.call, args=(os.getpid,))

        def wait_and_start_the_next() -> int:
            starting.start()
            starting.join(120)
            return wait()

        monkeypatch.setattr(first, "wait", wait_and_start_the_next)
        worker.close()
        assert Path(worker.call(tempfile.mkdtemp)).parent == worker._child.folder
        assert list(tmp_path.iterdir()) == [worker._child.folder]
    assert list(tmp_path.iterdir()) == []


def test_where_no_process_can_be_started_the_scan_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with (
        ScanWorker() as worker,
        pytest.raises(ScanAborted, match=r"no process to read scans in can be started \(No such"),
    ):
        worker.call(len, "ab")
    assert list(tmp_path.iterdir()) == []


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


SCRIPT = """
import os, sys, time
import endings
from med_transfer.scans.isolation import isolated
print(isolated(os.getpid), flush=True)
isolated(endings.end, sys.argv[1])
time.sleep(600)
"""  # as a user writes it: no "if __name__"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("doing", ["hang", "nothing"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_its_parent(tmp_path, doing, end):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([*sys.path, str(Path(endings.__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", doing],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    with process:
        child = int(process.stdout.readline())
        assert is_running(child)
        time.sleep(0.2)
        os.killpg(process.pid, end)  # as a terminal does it
        process.wait(240)
    deadline = time.monotonic() + 240
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)


def test_a_fork_gets_a_child_of_its_own():
    ours = isolated(os.getpid)
    reading, writing = os.pipe()
    if not (fork := os.fork()):
        try:
            os.write(writing, str(isolated(os.getpid)).encode())
            isolation._own[os.getpid()].close()
        finally:
            os._exit(0)  # on any error: a second pytest on the first one's pipes would be worse
    os.waitpid(fork, 0)
    assert int(os.read(reading, 99)) != ours
    assert isolated(os.getpid) == ours


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="there is one core to keep to")
def test_a_thread_that_keeps_to_one_core_does_not_bind_its_reader():
    cores, found = os.sched_getaffinity(0), []

    def on_one_core():
        os.sched_setaffinity(0, {min(cores)})
        with ScanWorker(loads=LOADS) as worker:
            found.append((os.sched_getaffinity(0), worker.call(os.sched_getaffinity, 0)))

    thread = threading.Thread(target=on_one_core)
    thread.start()
    thread.join(120)
    assert found == [({min(cores)}, cores)]


def test_threads_that_ask_at_once_share_one_child(monkeypatch):
    """The second thread asks while the first one makes the worker."""
    monkeypatch.setattr(isolation, "_own", {})
    asked, given = [], []

    def made():
        if not asked:
            asked.append(threading.Thread(target=lambda: given.append(isolation.worker())))
            asked[0].start()
            asked[0].join()
        return ScanWorker()

    monkeypatch.setattr(isolation, "ScanWorker", made)
    assert isolation.worker() is given[0]
