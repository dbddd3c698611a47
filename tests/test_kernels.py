"""Compiled code without the compiler: kept on disk, loaded, and shared out to threads."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numba import njit

import gencli
from gencli.kernels import sums, team
from gencli.kernels.machine_code import Function
from gencli.kernels.room import LINE, Room
from gencli.kernels.team import Job, cores

ROOT = Path(gencli.__file__).parent.parent


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package, which has no code kept."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gencli", tmp_path / "gencli", ignore=ignored)
    return tmp_path


SUMS = "gencli/kernels/thirds.py"
THIRDS = (
    "from gencli.kernels.compiling import kernel\nfrom gencli.kernels.layout import {name}\n\n"
    "@kernel\ndef thirds(numbers, out):\n    for i in range(out.size):\n        out[i] = numbers[i] * {name}\n"
)
CALL = (
    "import sys, numpy as np\nfrom gencli.kernels.machine_code import Function\n"
    "out = np.zeros(2)\nFunction('thirds', 'thirds').call(np.array([1.5, 2.0]), out)()\n"
    "print(out.tolist(), 'numba' in sys.modules)"
)


def answer(folder: Path, **environment: str) -> str:
    command = [sys.executable, "-c", CALL]
    variables = {"PYTHONPATH": str(folder), "HOME": str(folder / "home"), "PATH": "/usr/bin", **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_code_is_compiled_once_and_again_when_a_source_changes(copied: Path) -> None:
    (copied / SUMS).write_text(THIRDS.format(name="GROUP"))
    assert answer(copied) == "[96.0, 128.0] True"
    assert answer(copied) == "[96.0, 128.0] False"
    layout = copied / "gencli/kernels/layout.py"
    layout.write_text(layout.read_text().replace("GROUP = 64", "GROUP = 32"))  # a module beside it
    assert answer(copied) == "[48.0, 64.0] True"
    assert answer(copied) == "[48.0, 64.0] False"
    assert len(list((copied / "gencli/kernels/__pycache__").glob("thirds*.code"))) == 1


def test_damaged_code_is_never_run(copied: Path) -> None:
    (copied / SUMS).write_text(THIRDS.format(name="GROUP"))
    answer(copied)
    (kept,) = (copied / "gencli/kernels/__pycache__").glob("thirds*.code")
    whole = kept.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]])):
        kept.write_bytes(damaged)
        assert answer(copied) == "[96.0, 128.0] True"
        assert kept.read_bytes().partition(b"\n")[0] == whole.partition(b"\n")[0]


def test_code_is_kept_for_the_user_where_the_package_cannot_be_written(copied: Path) -> None:
    (copied / SUMS).write_text(THIRDS.format(name="GROUP"))
    (copied / "gencli/kernels/__pycache__").write_text("a file in its place")
    cache = copied / "cache"
    assert answer(copied, XDG_CACHE_HOME=str(cache)) == "[96.0, 128.0] True"
    assert answer(copied, XDG_CACHE_HOME=str(cache)) == "[96.0, 128.0] False"
    assert len(list((cache / "gencli" / "code").glob("thirds*.code"))) == 1
    blocked = copied / "blocked"
    blocked.write_text("")
    assert answer(copied, XDG_CACHE_HOME=str(blocked)) == "[96.0, 128.0] True"


def test_arguments_must_lie_close_together() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        Function("sums", "unknown").call(np.zeros((4, 4))[:, :2])


class Recorded(Function):
    """A function of ctypes in the place of compiled code: it writes down which thread of how many it is."""

    def __init__(self, seen: list[tuple[int, int]]) -> None:
        def function(block: int) -> None:
            words = ctypes.cast(block, ctypes.POINTER(ctypes.c_int64))
            job = ctypes.cast(words[0], ctypes.POINTER(ctypes.c_int64))
            seen.append((job[0], words[2]))

        self.function = ctypes.CFUNCTYPE(None, ctypes.c_int64)(function)

    def loaded(self, kinds: tuple[str, ...]) -> Any:
        return self


def together(job: Job, seen: list[tuple[int, int]], threads: int) -> None:
    """Do a job until that many threads did it: those that sleep come to a later one."""
    for _ in range(10_000):
        seen.clear()
        if job(threads) == threads:
            return
    raise AssertionError("no helper came")


@pytest.mark.skipif(cores() < 2, reason="one core has no helpers")
def test_a_job_is_done_by_every_thread_once() -> None:
    seen: list[tuple[int, int]] = []
    job = Job(Recorded(seen), threads=2)
    for _ in range(20):
        together(job, seen, 2)
        assert sorted(seen) == [(2, 0), (2, 1)]
    seen.clear()
    assert job(1) == 1 and seen == [(1, 0)]


@pytest.mark.skipif(cores() < 2, reason="one core has no helpers")
def test_threads_that_ask_at_the_same_time_do_not_wait_for_each_other() -> None:
    seen: list[tuple[int, int]] = []
    job, other = Job(Recorded(seen), threads=2), Job(Recorded([]), threads=2)
    together(job, seen, 2)
    with team._all_helpers().busy:  # as while another thread has its job done
        asked = threading.Thread(target=lambda: seen.append((other(2), -1)))
        asked.start()
        asked.join(timeout=60)
    assert seen[-1] == (1, -1)


def _in_a_fork(results: Any) -> None:
    seen: list[tuple[int, int]] = []
    together(Job(Recorded(seen), threads=2), seen, 2)
    results.put(sorted(seen))


@pytest.mark.skipif(cores() < 2, reason="one core has no helpers")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_fork_has_helpers_of_its_own() -> None:
    seen: list[tuple[int, int]] = []
    together(Job(Recorded(seen), threads=2), seen, 2)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_in_a_fork, args=(results,))
    process.start()
    assert results.get(timeout=60) == [(2, 0), (2, 1)]
    process.join(timeout=60)


@njit  # type: ignore[untyped-decorator]
def reduced(numbers: Any) -> Any:
    return (
        sums.sum_of(numbers), sums.sum_of_squares(numbers), sums.largest_of(numbers), sums.largest_size(numbers)
    )  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(numbers=arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e3, 1e3, width=32)))
def test_many_numbers_become_one(numbers: Any) -> None:
    found = reduced(numbers)
    exact = numbers.astype(np.float64)
    sizes = np.abs(exact)
    assert found[0] == pytest.approx(exact.sum(), abs=1e-5 * sizes.sum() + 1e-30)
    assert found[1] == pytest.approx((exact**2).sum(), rel=1e-5, abs=1e-30)
    assert found[2] == exact.max() and found[3] == sizes.max()


def test_room_is_zero_and_begins_with_lines() -> None:
    room = Room([15, 4 * 100])
    first, second = room.take((3, 5), np.uint8), room.take((2, 50), np.float32)
    for array in (first, second):
        assert array.ctypes.data % LINE == 0 and not array.any()
    first[:], second[:] = 7, 1.5
    assert (first == 7).all() and (second == 1.5).all()


def large_pages() -> bool:
    """Tell whether Linux gives large pages to those that ask for them."""
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return switch.exists() and "[never]" not in switch.read_text()


@pytest.mark.skipif(not large_pages(), reason="this system has no large pages to give")
def test_room_may_have_large_pages() -> None:
    """As the kernel has it: it leaves memory that processes might share in small ones."""
    array = Room([8 << 20]).take((8 << 20,), np.uint8)
    areas = re.split("(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]
    borders = [[int(number, 16) for number in area.split(" ")[0].split("-")] for area in areas]
    (own,) = (
        area for area, (start, end) in zip(areas, borders, strict=True) if start <= array.ctypes.data < end
    )
    assert re.search("THPeligible: +1", own), own
    assert array.ctypes.data % (2 << 20) == 0
