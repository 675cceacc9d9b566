"""What takes too long is ended."""

from __future__ import annotations

import re
import signal
import threading
import time

import pytest

from builder.util.deadline import deadline


def test_what_takes_too_long_is_ended() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.1 s"), deadline(0.1):
        time.sleep(10)
    with pytest.raises(TimeoutError), deadline(0.1):
        re.fullmatch(r"(a+)+b", "a" * 60)
    assert time.monotonic() - start < 5


def test_what_ends_in_time_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(0.05):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is before


def test_other_threads_are_not_ended() -> None:
    done = []

    def work() -> None:
        with deadline(0.01):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
