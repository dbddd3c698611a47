"""Threads that do a job together without Python: they wait in compiled code, for what to do and for each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gencli.kernels.compiling import add_to, call_at, kernel, rest, seen_at, show_at, swap_at

IntArray = npt.NDArray[np.int64]

AWAY, WAITING, CHOSEN, CALLED = 0, 1, 2, 3  # where a helper is
_STATE, _FUNCTION, _BLOCK = 0, 1, 2  # what stands where in the words of a helper
THREADS, MET = 0, 8  # what stands where in the words of a job: a line of the processor's cache for each


@kernel
def serve(words: IntArray, patience: int) -> None:
    """Do what is asked for in the words of a helper, until nothing has been for so many turns.

    Whoever was woken waits longer, for the job that went on meanwhile.
    """
    turn = -200 * patience
    show_at(words, _STATE, WAITING)
    while True:
        if seen_at(words, _STATE) == CALLED:
            call_at(words[_FUNCTION], words[_BLOCK])
            show_at(words, _STATE, WAITING)
            turn = 0
        turn += 1
        if turn > patience and swap_at(words, _STATE, WAITING, AWAY):
            return
        rest(turn)


@kernel
def run(helpers: IntArray, job: IntArray, calls: IntArray, most: IntArray) -> None:
    """Make a call on this thread and on helpers (N, words) that wait, at most[0] of them; set most[0] to how many.

    `calls` are the address of a function and those of the blocks for each thread. The job is told how many
    threads it has.
    """
    chosen = 0
    for number in range(helpers.shape[0]):
        if chosen < most[0] and swap_at(helpers[number], _STATE, WAITING, CHOSEN):
            chosen += 1
    job[THREADS], job[MET], placed = chosen + 1, 0, 0
    for number in range(helpers.shape[0]):
        if placed < chosen and seen_at(helpers[number], _STATE) == CHOSEN:
            placed += 1
            helpers[number, _FUNCTION], helpers[number, _BLOCK] = calls[0], calls[1 + placed]
            show_at(helpers[number], _STATE, CALLED)
    call_at(calls[0], calls[1])
    for number in range(helpers.shape[0]):
        turn = 0
        while seen_at(helpers[number], _STATE) == CALLED:
            turn += 1
            rest(turn)
    most[0] = chosen


@kernel
def meet(job: IntArray, threads: int) -> None:
    """Wait until all threads of a job have come here."""
    if threads > 1:
        until = (add_to(job, MET, 1) // threads + 1) * threads
        turn = 0
        while seen_at(job, MET) < until:
            turn += 1
            rest(turn)


@kernel
def share(total: int, thread: int, threads: int) -> tuple[int, int]:
    """Return the first and the end of a thread's part of so many pieces of work."""
    return total * thread // threads, total * (thread + 1) // threads
