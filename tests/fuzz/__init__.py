"""Damaged files by the thousand: what gencli reads is changed at random, and opened as its commands open it.

    python -m tests.fuzz --inputs 20000 --seed 1     every input, a line of JSON a kind, failures as they come
    python -m tests.fuzz --seed 1 --only 4711        one input again, with its traceback

Every input is opened in a process forked for it, with little memory and time. It may be accepted or refused
with an error of gencli's own; a signal, any other exception, a full memory and a timeout are failures.
"""
