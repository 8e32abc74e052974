"""Cores are counted, threads sleep while they wait, and memory freed by one step serves the next."""

import os
import platform
import subprocess
import sys

import pytest

from med_transfer import processor

KEPT = {name: value for name, value in os.environ.items() if name.partition("_")[0] not in {"OMP", "GOMP"}}
FAULTS = """
import resource, torch
from med_transfer.processor import keep_freed_memory

def page_faults():
    for _ in range(6):
        maps = [torch.ones(1 << 20) for _ in range(20)]
        del maps
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.ones(1 << 20) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults())
assert keep_freed_memory()
print(page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back at once")
def test_no_page_of_freed_memory_faults_again():
    answer = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=500)
    before, after = map(int, answer.stdout.split())
    assert before > 1000  # huge pages may be on; without them 20,000
    assert after < 100


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=KEPT | environment, capture_output=True, text=True, check=True, timeout=500
    ).stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux has control groups")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_cores_are_those_of_the_container(monkeypatch, tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(processor, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert processor.cores() == expected


def test_a_network_takes_no_more_threads_than_the_container_may_use(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("100000 100000")
    monkeypatch.setattr(processor, "_CONTROL_GROUP", tmp_path)
    for given, expected in (({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")):
        monkeypatch.setattr(os, "environ", given)
        processor.settle_threads()
        assert os.environ["OMP_NUM_THREADS"] == expected  # an explicit number is respected
    assert python("import torch; print(torch.get_num_threads())", OMP_NUM_THREADS="1") == "1"


def test_threads_sleep_when_they_wait_unless_told_otherwise():
    code = "import os, med_transfer; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python(code) == "3000"
    assert python(code, GOMP_SPINCOUNT="7") == "7"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "None"


def test_a_user_without_a_name_is_a_number():
    nameless = "import pwd\n\ndef unknown(uid):\n    raise KeyError(uid)\n\npwd.getpwuid = unknown\n"
    code = f"{nameless}import getpass, os, med_transfer; print(getpass.getuser() == f'uid-{{os.getuid()}}')"
    names = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "")
    assert python(code, **names) == "True"
    assert python("import getpass, med_transfer; print(getpass.getuser())", **names | {"USER": "ann"}) == "ann"
