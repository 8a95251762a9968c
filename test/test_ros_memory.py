"""Memory that a frame needed is kept for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FRAMES = 50
PAGES_PER_FRAME = 3 * 1280 * 720 * 3 // 4096  # message, converted picture, picture to draw on
COUNT_FAULTS = f"""
import resource, sys, threading
import numpy as np
from cone_perception.process import keep_freed_memory

def answer_frames():
    for _ in range({FRAMES}):
        copies = [np.ones((720, 1280, 3), np.uint8) for _ in range(3)]
        del copies

def run():
    thread = threading.Thread(target=answer_frames)  # as in the node: not the main arena
    thread.start()
    thread.join()

if sys.argv[1] == 'keep':
    keep_freed_memory()
run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(mode: str) -> int:
    command = [sys.executable, '-c', COUNT_FAULTS, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='mallopt is of glibc')
def test_frames_do_not_fault_the_same_pages_again() -> None:
    assert count_faults('give back') > FRAMES * PAGES_PER_FRAME / 2
    assert count_faults('keep') < 2 * PAGES_PER_FRAME
