"""What a row has read and written so far, in the forms that filters ask for, kept up at each token."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class History:
    """The ids of a row, how often each occurred among the last `window` (0: all), and what followed what.

    `ngram` is the length of the n-grams that may not repeat; 0 keeps no record of them.
    """

    def __init__(self, ids: Iterable[int] = (), *, window: int = 0, ngram: int = 0) -> None:
        self.ids = list(ids)
        self.counts = Counter(self.ids[-window:])
        self._window, self._ngram = window, ngram
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for end in range(ngram, len(self.ids) + 1) if ngram else ():
            *before, last = self.ids[end - ngram : end]
            self._followers[tuple(before)].add(last)

    def add(self, identity: int) -> None:
        """Take in one more id."""
        if self._ngram and len(self.ids) >= self._ngram - 1:
            self._followers[self._last()].add(identity)
        self.ids.append(identity)
        self.counts[identity] += 1
        if 0 < self._window < len(self.ids):
            left = self.ids[-self._window - 1]
            self.counts[left] -= 1
            if not self.counts[left]:
                del self.counts[left]

    def fork(self) -> History:
        """Return a record that goes on by itself."""
        other = History(window=self._window, ngram=self._ngram)
        other.ids, other.counts = list(self.ids), self.counts.copy()
        for before, following in self._followers.items():
            other._followers[before] = set(following)
        return other

    def repeats(self) -> Collection[int]:
        """Return the ids that would complete an n-gram that occurred before (Paulus et al. 2017)."""
        return self._followers.get(self._last(), ()) if self._ngram else ()

    def _last(self) -> tuple[int, ...]:
        return tuple(self.ids[len(self.ids) - self._ngram + 1 :])
