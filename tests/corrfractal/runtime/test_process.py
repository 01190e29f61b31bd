"""Memory that an inference process keeps from frame to frame."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Each turn writes to every page of new blocks, as a frame does.
FAULTS_OF_LATER_BLOCKS = """
import resource
import numpy as np
from corrfractal.runtime.process import keep_freed_memory

{setting}

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def turn():
    blocks = [np.ones(12 << 20, dtype=np.uint8) for _ in range(4)]
    return len(blocks)

for _ in range(3):
    turn()
before = faults()
for _ in range(10):
    turn()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is a function of glibc")
def test_blocks_that_were_freed_are_used_again_without_new_pages() -> None:
    kept = faults_of_later_blocks("keep_freed_memory()")
    returned = faults_of_later_blocks("")
    assert kept < returned / 10, (kept, returned)


def faults_of_later_blocks(setting: str) -> int:
    code = FAULTS_OF_LATER_BLOCKS.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)
