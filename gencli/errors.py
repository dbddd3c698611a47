"""Every failure that a user can cause, as one tree; each class carries its exit code.

    GencliError             1  a bug in gencli if raised bare
    ├── UsageError          2  flags that make no sense together or out of range
    ├── InputError          3  the input is bad
    │   ├── CorpusError         a text to learn from
    │   ├── PairsError          a file of labelled pairs
    │   ├── TokenizerError      a tokenizer, or a text it can't be trained on
    │   ├── ModelError          a model folder
    │   ├── ConfigError         a configuration file
    │   └── RewardError         a reward of the user's own
    ├── MachineError        4  disk, memory, permission, device
    ├── RunStateError       5  locked, nothing to resume, not the same run
    │   └── CompleteError       nothing is left to do
    ├── DivergedError       6  training left the finite numbers
    ├── StoppedError  130/143  a signal came before there was anything to save
    ├── PeerError       its    another process of the run failed, and told why
    └── ClosedPipeError   141  nobody reads the output any more; nothing to tell

A message says what is wrong and names the place; `kept` says what is still safe on disk; `hint` says
what to try next. The command line prints them as two to six lines and exits with the class's code.
"""

from __future__ import annotations

LONGEST_LINE = 1000  # characters of a message


class GencliError(Exception):
    """What went wrong, where, what is still safe, and what to try next."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", kept: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.kept = kept
        self.hint = hint

    def __str__(self) -> str:
        """Return the message with its place and the next step."""
        return "\n".join(part for part in (self.message, self.where, self.kept, self.hint) if part)

    def lines(self) -> list[str]:
        """Return the two to six lines a user reads, most important first."""
        if not self.message:
            return []
        labelled = [("where", self.where), ("kept", self.kept), ("try", self.hint)]
        lines = [f"error: {self.message}"] + [f"  {label}: {text}" for label, text in labelled if text]
        return [_one_line(line) for line in lines]


def _one_line(text: str) -> str:
    """Return what may hold a path, of any length and with line ends in it, as one line to read."""
    text = text.replace("\n", "\\n")
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…"


class UsageError(GencliError):
    """The command line asks for something that can't be."""

    exit_code = 2


class InputError(GencliError):
    """Something that was given to gencli can't be used."""

    exit_code = 3


class CorpusError(InputError):
    """A text to learn from can't be read."""


class PairsError(InputError):
    """A file of labelled pairs can't be read."""


class TokenizerError(InputError):
    """A tokenizer can't be trained or opened."""


class ModelError(InputError):
    """A model folder can't be opened."""


class ConfigError(InputError):
    """A configuration file can't be used."""


class RewardError(InputError):
    """A function that should tell how good an answer is can't be found, or fails."""


class MachineError(GencliError):
    """The machine refuses: disk, memory, permission or device."""

    exit_code = 4


class RunStateError(GencliError):
    """The run on disk is locked, missing, or another one."""

    exit_code = 5


class CompleteError(RunStateError):
    """The run that should go on has reached its length already."""


class DivergedError(GencliError):
    """The loss or a gradient is no longer a finite number."""

    exit_code = 6


class StoppedError(GencliError):
    """A signal ended the command before there was anything to save."""

    def __init__(self, signal: int, *, kept: str = "what was there before is untouched") -> None:
        super().__init__("stopped before there was anything to save", kept=kept)
        self.signal = signal
        self.exit_code = 128 + signal


class PeerError(GencliError):
    """Another process of this run failed first; it has told the error, so this one says nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run failed")
        self.exit_code = exit_code

    def lines(self) -> list[str]:
        """Return nothing to tell."""
        return []


class ClosedPipeError(GencliError):
    """Whoever read the output went away."""

    exit_code = 141


def is_memory_full(error: BaseException) -> bool:
    """Tell whether an error that is none of gencli's says that the memory of the machine or device is full."""
    if isinstance(error, MemoryError):
        return True
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "out of memory" in text or "can't allocate memory" in text
