"""Which keys or columns of a labelled file hold the prompt and the answer, told by their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.errors import PairsError
from gencli.text.json_lines import near_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = (
    *("prompt", "instruction", "question", "query", "source", "src", "user", "human", "input"),
    *("text", "sentence", "review", "document", "context", "q", "질문", "문장"),
)
LABELS = ("label", "category", "class", "intent", "sentiment")
COMPLETIONS = (
    *("completion", "response", "answer", "output", "target", "tgt", "chosen", "assistant", "summary"),
    *("translation", "a", "답변", "대답", "응답", "정답", *LABELS),
)
EXTRA_INPUTS = ("input", "context")
_LANGUAGES = "ar cs da de el en es fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk vi zh"


@dataclass(frozen=True)
class Fields:
    """The keys to read: `turns` for a conversation, else `prompt` (with `extra_input`) and `completion`."""

    words: str
    prompt: str = ""
    completion: str = ""
    extra_input: str = ""
    turns: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that are read."""
        return tuple(key for key in (self.prompt, self.extra_input, self.completion, self.turns) if key)

    @property
    def has_labels(self) -> bool:
        """Whether the answers are labels: few values that come again and again."""
        return _plain(self.completion) in LABELS


def detected_fields(
    names: Sequence[str], *, prompt_key: str | None, completion_key: str | None
) -> Fields | None:
    """Return the fields that `names` offer, the given keys first; None if they can't be told."""
    if prompt_key is None and completion_key is None:
        turns = first_known(CONVERSATIONS, names)
        if turns:
            return Fields(_plain(turns), turns=turns)
    prompt = prompt_key or first_known(PROMPTS, names, but=completion_key)
    completion = completion_key or first_known(COMPLETIONS, names, but=prompt)
    others = [name for name in names if name not in (prompt_key, completion_key)]
    if len(others) == 1 and (prompt_key or completion_key):
        prompt, completion = prompt or others[0], completion or others[0]
    if not prompt or not completion or prompt not in names or completion not in names:
        return None
    extra = first_known(EXTRA_INPUTS, names, but=completion) if _plain(prompt) == "instruction" else ""
    words = f"{prompt} + {extra} → {completion}" if extra else f"{prompt} → {completion}"
    return Fields(words, prompt=prompt, completion=completion, extra_input=extra)


def unknown_fields(
    names: Sequence[str], *, where: str, prompt_key: str | None, completion_key: str | None
) -> PairsError:
    """Return the error to raise when `detected_fields` finds nothing, with the nearest names."""
    found = ", ".join(map(repr, names)) or "no key"
    for key in (prompt_key, completion_key):
        if key is not None and key not in names:
            return missing_key(key, names, where=where)
    near = [(name, near_name(name, (*PROMPTS, *COMPLETIONS, *CONVERSATIONS))) for name in names]
    guesses = [f"{meant!r} for {name!r}" for name, meant in near if meant and meant != _plain(name)]
    hint = "name them with --prompt-key and --completion-key"
    return PairsError(
        f"can't tell prompt and answer by their names: found {found}",
        where=where,
        hint=f"did you mean {', '.join(guesses)}? Or {hint}" if guesses else hint,
    )


def missing_key(key: str, names: Iterable[str], *, where: str) -> PairsError:
    """Return the error to raise for a row without `key`."""
    near = near_name(key, names)
    return PairsError(
        f"expected a key {key!r}, found {', '.join(map(repr, names)) or 'no key'}",
        where=where,
        hint=f"did you mean {key!r} by {near!r}?" if near else "",
    )


def looks_like_header(cells: Sequence[str]) -> bool:
    """Guess whether the first row of a table with unknown names is a header.

    In two columns only language codes ("ko", "en") are taken for one, in more columns any distinct names.
    """
    if len(set(cells)) < len(cells):
        return False
    if len(cells) == 2:
        return set(cells) <= set(_LANGUAGES.split())
    return all(len(cell) <= 30 and cell.replace(" ", "_").isidentifier() for cell in cells)


def first_known(known: Sequence[str], names: Sequence[str], *, but: str | None = None) -> str:
    """Return that of `names` which comes first among the known ones, however it is written; "" if none is."""
    by_plain = {_plain(name): name for name in reversed(names)}
    return next((by_plain[name] for name in known if name in by_plain and by_plain[name] != but), "")


def _plain(name: str) -> str:
    return name.strip().casefold()
