"""Memory freed by one step serves the next, so that no page faults twice."""

import platform
import subprocess
import sys

import pytest

from med_transfer.backbones import freed_memory

FAULTS = """
import resource, runpy, sys, torch
keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]

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
    command = [sys.executable, "-c", FAULTS, freed_memory.__file__]  # the file alone: the package takes long to import
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    before, after = map(int, answer.stdout.split())
    assert before > 1000  # huge pages may be on; without them 20,000
    assert after < 100
