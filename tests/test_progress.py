"""How a job's stage gets another name; who sees bars who asked for none."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

from med_transfer.progress import named

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
    until, seen = time.monotonic() + 240, b""
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


def test_python_shows_bars_on_a_terminal_and_nothing_in_a_log(tmp_path):
    seen = seen_on_a_terminal("-c", WRITE, tmp_path / "seen")
    assert "writing scans: 100%|" in seen
    assert "3/3" in seen
    log = subprocess.run([sys.executable, "-c", WRITE, tmp_path / "log"], capture_output=True, timeout=240, check=True)
    assert (log.stdout, log.stderr) == (b"", b"")


def test_a_command_draws_its_own_bars_and_no_others(tmp_path):
    seen = seen_on_a_terminal("-m", "med_transfer", "phantom", tmp_path / "out", *TINY)
    assert "writing scans" in seen
    assert "100%|" not in seen
