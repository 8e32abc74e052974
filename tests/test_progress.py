"""How a job's stage gets another name; who sees progress bars without asking."""

import fcntl
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from med_transfer.errors import OutputError
from med_transfer.progress import log_file, named

WRITE = """
import sys
from pathlib import Path
from med_transfer.phantoms import PhantomConfig, write_cohort
write_cohort(Path(sys.argv[1]), PhantomConfig(patients_per_class=1, scans_per_patient=(1, 1), shape=(8, 32, 32)))
"""
TINY = ("--set", "patients_per_class=1", "--set", "scans_per_patient=[1,1]", "--set", "shape=[8,32,32]")


def test_a_stage_is_renamed_or_wrapped_and_all_else_is_passed_on():
    told = []

    def listener(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total, note))

    named(listener, "reading unlabelled scans")("reading scans", 1, 4)
    named(listener, "source: {stage}")("fine-tuning", 2, 8, "epoch 1")
    assert told == [("reading unlabelled scans", 1, 4, ""), ("source: fine-tuning", 2, 8, "epoch 1")]


def seen_on_a_terminal(*words):
    """What a program writes to a terminal of 100 columns that is its stderr."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    until, seen = time.monotonic() + 500, b""
    try:
        while time.monotonic() < until:
            if select.select([screen], [], [], 1)[0]:
                try:
                    seen += os.read(screen, 1 << 16)
                except OSError:  # the program has ended, and nobody holds the terminal
                    break
        assert process.wait(max(0.1, until - time.monotonic())) == 0, seen
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    return seen.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_log_on_a_full_disk_stops_the_job_without_a_traceback(capsys):
    full = pytest.raises(OutputError, match=r"/dev/full: cannot be written: No space left on device\. Free disk space")
    with full, log_file(Path("/dev/full")):
        logging.getLogger("med_transfer.somewhere").warning("a line")
    assert "Logging error" not in capsys.readouterr().err


def test_python_shows_bars_on_a_terminal_and_nothing_in_a_log(tmp_path):
    seen = seen_on_a_terminal("-c", WRITE, tmp_path / "seen")
    assert "writing scans: 100%|" in seen
    assert "3/3" in seen
    log = subprocess.run([sys.executable, "-c", WRITE, tmp_path / "log"], capture_output=True, timeout=500, check=True)
    assert (log.stdout, log.stderr) == (b"", b"")


FOLDS = """
import sys
{bars}
    for repeat in range(1, 4):
        for fold in range(1, 6):
            stage = "training" + f", repeat {{repeat}}" * (repeat > 1) + f", fold {{fold}} of 5"
            for step in range(3):
                tell(stage, step, 2)
    tell("test scans", 1, 1)
"""
OF_A_COMMAND = "from med_transfer.cli.terminal import progress_bars\nwith progress_bars() as tell:"
OF_PYTHON = "from med_transfer.progress import bars_unless\nwith bars_unless(None) as tell:"


def screen_after(seen):
    """The lines that a terminal shows in the end: what was written over and wiped is gone."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", seen):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif control.endswith("A"):
            row -= int(control[2:-1])
        elif control.endswith("K"):
            lines[row] = ""
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize("bars", [OF_A_COMMAND, OF_PYTHON])
def test_finished_folds_leave_one_bar(bars):
    last_fold, after = screen_after(seen_on_a_terminal("-c", FOLDS.format(bars=bars)))
    assert last_fold.startswith("training, repeat 3, fold 5 of 5")
    assert after.startswith("test scans")


def test_a_command_draws_its_own_bars_and_no_others(tmp_path):
    seen = seen_on_a_terminal("-m", "med_transfer", "phantom", tmp_path / "out", *TINY)
    assert "writing scans" in seen
    assert "100%|" not in seen


def test_a_job_whose_length_nobody_knows_counts_on(tmp_path):
    job = "{bars}\n    for step in range(3):\n        tell('looking', step + 1, 0)"
    for bars in (OF_A_COMMAND, OF_PYTHON):
        (line,) = screen_after(seen_on_a_terminal("-c", job.format(bars=bars)))
        assert re.search(r"looking.*3/\?", line), line
    piped = subprocess.run([sys.executable, "-c", job.format(bars=OF_A_COMMAND)], capture_output=True, check=True)
    assert piped.stderr == b""  # it had ended before anybody would have asked
    slow = f"import itertools, time\ntime.monotonic = itertools.count(0, 31).__next__\n{job.format(bars=OF_A_COMMAND)}"
    piped = subprocess.run([sys.executable, "-c", slow], capture_output=True, check=True, text=True)
    assert piped.stderr.splitlines() == ["looking 1", "looking 2", "looking 3"]
