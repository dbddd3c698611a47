"""All that is drawn on the terminal: notes, tables, progress, errors. Everything here goes to stderr.

The product of a command, its text or its JSON lines, goes to stdout through `emit` and `write`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Characters that can move the cursor, change colours or reorder text on a terminal.
_BIDIRECTIONAL = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_HARMLESS = {"\n", "\t"}
_BRAILLE = 0x2800
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))  # per column, from the lowest dot up


def show(text: str) -> str:
    """Return text that is safe on a terminal: control and reordering characters become visible escapes."""
    return "".join(ch if _is_plain(ch) else f"\\x{ord(ch):02x}" for ch in text)


def _is_plain(ch: str) -> bool:
    code = ord(ch)
    if ch in _HARMLESS or 0x20 <= code < 0x7F:
        return True
    tag = 0xE0000 <= code <= 0xE007F
    return not (
        code in _BIDIRECTIONAL or tag or code in (0x2028, 0x2029) or unicodedata.category(ch) in ("Cc", "Cs")
    )


def emit(record: Mapping[str, object]) -> None:
    """Print one JSON object as a line on stdout."""
    write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


def write(text: str) -> None:
    """Print text on stdout at once: as it is into a pipe or file, made safe on a terminal."""
    safe = show(text) if sys.stdout.isatty() else text
    _put(safe)


class Tinted:
    """Prints pieces of text on stdout, in colours where that is a terminal that shows them."""

    def __init__(self) -> None:
        from rich.console import Console

        console = Console(file=sys.stdout)
        self._shows = console.is_terminal and console.color_system is not None and not console.no_color

    def write(self, text: str, colour: str) -> None:
        """Print a piece at once; an empty `colour` leaves it as it is."""
        if not colour or not self._shows:
            write(text)
            return
        from rich.color import ColorSystem
        from rich.style import Style

        _put(Style.parse(colour).render(show(text), color_system=ColorSystem.STANDARD))


def end_line() -> None:
    """Go to a new line on the terminal that someone types at."""
    (sys.stdout if sys.stdout.isatty() else sys.stderr).write("\n")
    sys.stdout.flush()


def _put(text: str) -> None:
    """Write all of the text: an unbuffered stdout may take a part at a time."""
    rest = memoryview(text.encode("utf-8", "replace"))
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.buffer.flush()


class Screen:
    """Commentary on stderr: plain lines when it is no terminal, nothing but errors when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Return the console, made when it is first needed: rich takes time to import."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        return self._console

    @property
    def is_terminal(self) -> bool:
        """Tell whether someone watches."""
        return not self.quiet and self.console.is_terminal and not self.console.is_dumb_terminal

    def note(self, text: str, style: str = "") -> None:
        """Print a line of commentary."""
        if not self.quiet:
            self._line(text, style)

    def error(self, lines: Sequence[str]) -> None:
        """Print an error: what, then where, what is kept, and what to try."""
        for number, line in enumerate(lines):
            self._line(line, "bold red" if number == 0 else "dim")

    def _line(self, text: str, style: str) -> None:
        if sys.stderr.isatty():
            self.console.print(show(text), style=style or None)
        else:
            sys.stderr.write(show(text) + "\n")
            sys.stderr.flush()

    @contextlib.contextmanager
    def counted(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Give a function that shows on a terminal how many of `total` bytes are done."""
        if not self.is_terminal:
            yield lambda _: None
            return
        live = self.live()
        live.start()
        try:
            yield lambda done: live.draw([f"{what}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB"])
            live.draw([])
        finally:
            live.stop()

    @contextlib.contextmanager
    def patient(self, why: str, seconds: float = 1.5) -> Iterator[None]:
        """Say `why` it takes so long if the block lasts longer than that."""
        timer = threading.Timer(seconds, self.note, (why, "dim"))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def live(self) -> LiveText:
        """Return a part of the screen that is drawn anew in place; it must be started and stopped."""
        return LiveText(self.console)

    def table(self, title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> None:
        """Print rows under a title, on stdout: a table is what its command was asked for."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=bool(head), box=None, pad_edge=False)
        cells = [[Text(show(str(cell))) for cell in row] for row in rows]
        for number in range(max((len(row) for row in cells), default=len(head))):
            numeric = bool(cells) and all(_is_number(row[number].plain) for row in cells if number < len(row))
            table.add_column(
                head[number] if head else "", justify="right" if numeric else "left", overflow="fold"
            )
        for row in cells:
            table.add_row(*row)
        console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 100)
        with console.capture() as drawn:
            console.print(Text(show(title), style="bold"))
            console.print(table)
        _put(drawn.get())


class LiveText:
    """Some lines at the bottom of the terminal that change in place; other lines scroll past above."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False)

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of those before."""
        from rich.text import Text

        self._live.update(Text(show("\n".join(lines)), no_wrap=True, overflow="ellipsis"), refresh=True)

    def say(self, line: str) -> None:
        """Print a line above."""
        self._live.console.print(show(line))

    def stop(self) -> None:
        """Leave the last lines where they are."""
        self._live.stop()


def curve(points: Sequence[tuple[float, float]], *, width: int = 60, height: int = 6) -> list[str]:
    """Draw points (x from 0 to 1, y) as lines of Braille dots with the highest and lowest y beside them."""
    if len(points) < 2:
        return []
    columns = 2 * width
    sums: dict[int, list[float]] = {}
    for x, y in points:
        sums.setdefault(min(columns - 1, int(x * columns)), []).append(y)
    means = {column: sum(values) / len(values) for column, values in sums.items()}
    low, high = min(means.values()), max(means.values())
    span = (high - low) or 1.0
    cells = [[0] * width for _ in range(height)]
    for column, mean in means.items():
        level = min(4 * height - 1, int((mean - low) / span * 4 * height))
        row, dot = height - 1 - level // 4, level % 4
        cells[row][column // 2] |= _DOTS[column % 2][dot]
    labels = [f"{high:8.3f} "] + [" " * 9] * (height - 2) + [f"{low:8.3f} "]
    return [
        label + "".join(chr(_BRAILLE + cell) for cell in row)
        for label, row in zip(labels, cells, strict=True)
    ]


def clock_text(seconds: float) -> str:
    """Return seconds as 0:42, 12:05 or 3:07:00."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").replace("-", "").strip().isdigit()
