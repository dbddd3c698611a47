"""A chat typed at a terminal: Ctrl-C, Ctrl-D, turns of several lines, the history, and text that would steer it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gencli.cli import lines
from gencli.text.pairs import read_pairs

readline = pytest.importorskip("readline")
if "libedit" in str(readline.__doc__):
    pytest.skip("these tests know how GNU readline draws", allow_module_level=True)

DRAWN = "\x1b[?2004h"  # what no answer can hold
FIRST, FURTHER = DRAWN + lines.FIRST, DRAWN + lines.FURTHER

# the terminal becomes the one whose Ctrl-C reaches the program
PROGRAM = (
    "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'gencli', *sys.argv[1:]])"
)
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
ENDLESS = ["-n", 10**6, "--min-new-tokens", 10**6]
SECONDS = 60


class Terminal:
    """A terminal of 300 columns with a chat in it."""

    def __init__(self, process: subprocess.Popen[bytes], main: int) -> None:
        self._process, self._main = process, main
        self._data, self._at = bytearray(), 0

    @property
    def seen(self) -> str:
        return self._data.decode("utf-8", "replace")

    def until(self, text: str) -> str:
        """Wait for a text; return what came since the last one that was waited for."""
        ends = time.monotonic() + SECONDS
        while text not in self.seen[self._at :]:
            assert time.monotonic() < ends, f"{text!r} does not come after {self.seen[self._at :]!r}"
            assert self._read(1.0), f"{text!r} does not come before the end: {self.seen!r}"
        end = self.seen.index(text, self._at) + len(text)
        came, self._at = self.seen[self._at : end], end
        return came

    def more(self, characters: int) -> None:
        """Wait until so many characters came after the last text that was waited for."""
        ends = time.monotonic() + SECONDS
        while len(self.seen) < self._at + characters:
            assert time.monotonic() < ends and self._read(1.0), self.seen

    def type(self, text: str, until: str = FIRST) -> str:
        """Type a text; return what came up to another."""
        time.sleep(0.1)  # nobody types faster, and readline misses a signal that comes while it draws
        os.write(self._main, text.encode())
        return self.until(until)

    def ended(self, text: str) -> int:
        """Type a text, and return the exit code of the chat that it ends."""
        time.sleep(0.1)
        os.write(self._main, text.encode())
        while self._read(1.0):
            pass
        return self._process.wait(SECONDS)

    def _read(self, seconds: float) -> bool:
        """Take in what comes; return False at the end."""
        if not select.select([self._main], [], [], seconds)[0]:
            return self._process.poll() is None
        try:
            data = os.read(self._main, 1 << 16)
        except OSError:  # the last process closed its end
            return False
        self._data.extend(data)
        return bool(data)


@contextmanager
def chatting(folder: Path, *arguments: object) -> Iterator[Terminal]:
    """Give a terminal with a chat in it that waits for the first turn."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 300, 0, 0))
    command = [sys.executable, "-c", PROGRAM, "chat", "-m", folder, "-s", 1, "--engine", "cpu", *arguments]
    process = subprocess.Popen(
        [str(part) for part in command], stdin=other, stdout=other, stderr=other, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(other)
    try:
        terminal = Terminal(process, main)
        terminal.until(FIRST)
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_a_conversation(model_folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    with chatting(model_folder, "-n", 5, "--min-new-tokens", 5) as terminal:
        terminal.type("강 산\r")
        terminal.type("바다 \\\r", FURTHER)
        terminal.type("하늘\r")
        terminal.type('"""\r', FURTHER)
        terminal.type("나무\r", FURTHER)
        terminal.type('새 "꽃"\r', FURTHER)
        terminal.type('"""\r')
        terminal.type("\x1b[200~두 줄\r한 번에\x1b[201~\r")
        terminal.type(UP + UP, "새")
        terminal.type("!\r")
        assert "did you mean /save?" in terminal.type("/sav\r")
        terminal.type(f"/save {saved}\r", "saved: 5 turns")
        terminal.until(FIRST)
        assert terminal.ended(CTRL_D) == 0
    turns = ["강 산", "바다 \n하늘", '나무\n새 "꽃"', "두 줄\n한 번에", '나무\n새 "꽃"!']
    (pair,) = read_pairs(saved).pairs
    assert [turn.text for turn in pair.turns if turn.role == "user"] == turns
    history = Path(os.environ["GENCLI_CACHE"]) / "chat_history.jsonl"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    typed = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    assert typed == [*turns, "/sav", f"/save {saved}"]
    with chatting(model_folder, "-n", 5, "--no-history") as terminal:
        os.write(terminal._main, UP.encode())
        assert "/save" not in terminal.type("별\r")
    with chatting(model_folder, "-n", 5) as terminal:
        terminal.type(UP, f"/save {saved}")
    assert len(history.read_text("utf-8").splitlines()) == len(typed)


def test_ctrl_c_stops_the_answer_and_not_the_chat(model_folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    with chatting(model_folder, *ENDLESS) as terminal:
        terminal.type("강 산\r", "\n")
        terminal.more(200)
        assert "stopped" in terminal.type(CTRL_C)
        assert "Traceback" not in terminal.seen
        terminal.type("half a line", "half a line")
        terminal.type(CTRL_C)
        terminal.type(f"/save {saved}\r")
        assert "Ctrl-C again or Ctrl-D leaves" in terminal.type(CTRL_C)
        assert terminal.ended(CTRL_C) == 130
    (pair,) = read_pairs(saved).pairs
    assert len(pair.turns) == 2 and len(pair.turns[1].text) > 3


def test_ctrl_c_in_a_turn_of_several_lines_throws_that_away(model_folder: Path) -> None:
    with chatting(model_folder, "-n", 5) as terminal:
        terminal.type('"""\r', FURTHER)
        terminal.type("강\r", FURTHER)
        terminal.type(CTRL_C)
        terminal.type("/system\r", "there is no system text")
        terminal.until(FIRST)
        assert terminal.ended("/quit\r") == 0
