"""What a process does where it leaves the processor to others."""

import os
import sys
import threading

import pytest

from fedsim.process import yielding


def test_work_stands_back_and_the_process_does_not():
    seen = {}

    def work():
        seen.update(thread=threading.get_ident(), nice=os.getpriority(os.PRIO_PROCESS, 0))

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    yielding(work)
    assert seen["thread"] != threading.get_ident()
    if sys.platform == "linux":
        assert seen["nice"] == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError):
        yielding(lambda: 1 / 0)
