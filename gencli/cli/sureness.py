"""How sure a model is of what it writes: told, coloured, and a reason to withhold a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gencli.decoding.decoder import Token
    from gencli.model.confidence import Calibration
    from gencli.settings.decoding import GenerateSettings
    from gencli.ui import Screen

UNKNOWN = "unknown"
# A token that is less likely than this gets the colour; the first that holds counts.
COLOURS = ((0.1, "red"), (0.3, "yellow"), (0.6, "cyan"))


@dataclass(frozen=True)
class Sureness:
    """Turns tokens' log-probabilities into a confidence, and withholds texts below `abstain`.

    `note` is what a user should know of the calibration.
    """

    calibration: Calibration
    abstain: float | None = None
    note: str = ""

    def of(self, tokens: Sequence[Token]) -> float:
        """Return the confidence in a text of these tokens."""
        return self.calibration.confidence([token.logprob or 0.0 for token in tokens])

    def record(self, text: str, confidence: float) -> dict[str, object]:
        """Return the text with its confidence; a text that is withheld stands under another name."""
        told = {"text": text, "confidence": round(confidence, 6)}
        return {**told, "text": UNKNOWN, "withheld": text} if self.withholds(confidence) else told

    def withholds(self, confidence: float) -> bool:
        """Tell whether the model is to say that it does not know."""
        return self.abstain is not None and confidence < self.abstain

    def told(self, text: str, confidence: float) -> str:
        """Return the text, or the word that stands for it."""
        return UNKNOWN if self.withholds(confidence) else text

    def describe(self, confidence: float) -> str:
        """Return the confidence in words."""
        how = "" if self.calibration.answers else ", not calibrated: the probability for its length"
        return f"confidence {confidence:.2f}{how}"


def open_sureness(settings: GenerateSettings, path: object, screen: Screen) -> Sureness:
    """Return how sure the model in a folder may be; say why a calibration there is not used."""
    from pathlib import Path

    from gencli.model.confidence import read_calibration

    calibration, note = read_calibration(Path(str(path)))
    if note:
        screen.note(note)
    return Sureness(calibration, settings.abstain, note)


def wants_logprobs(settings: GenerateSettings) -> bool:
    """Tell whether anything will be said of how sure the model is."""
    told = settings.json or settings.input is not None
    return told or settings.show_confidence or settings.recall or settings.abstain is not None


def coloured(tokens: Iterable[Token]) -> Iterator[tuple[str, str]]:
    """Yield (text, colour) as it comes; a text that several tokens spell has the colour of the least sure."""
    least = 0.0
    for token in tokens:
        least = min(least, token.logprob or 0.0)
        if token.text:
            yield token.text, colour_of(math.exp(least))
            least = 0.0


def colour_of(probability: float) -> str:
    """Return the colour of a token that is so likely, "" for a sure one."""
    return next((colour for most, colour in COLOURS if probability < most), "")


def piece_records(tokens: Sequence[Token]) -> list[dict[str, object]]:
    """Return for each piece of text how likely it was."""
    told: list[dict[str, object]] = []
    least = 0.0
    for token in tokens:
        least = min(least, token.logprob or 0.0)
        if token.text or token is tokens[-1]:
            told.append({"text": token.text, "probability": round(math.exp(least), 6)})
            least = 0.0
    return told
