"""What a run of alignment is for: the start, the rows to learn from, and what its answers earn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gencli.alignment.rewards import ExactMatch, OwnFunction, PatternMatch, Reward
from gencli.errors import PairsError, UsageError
from gencli.knobs import flag_of
from gencli.model.folder import ModelFolder, open_model
from gencli.settings.alignment import AlignSettings
from gencli.text.examples import parted
from gencli.text.labelled import told
from gencli.text.preferences import Preference, PreferencesFile, read_preferences
from gencli.text.prompts import Prompt, PromptsFile, read_prompts

DPO, GRPO = "dpo", "grpo"

# What a user leaves open, by method. A knob that stands under one of the two alone belongs to it.
DEFAULTS: dict[str, dict[str, object]] = {
    DPO: {"learning_rate": 0.0005, "batch_size": 32, "beta": 0.1, "label_smoothing": 0.0, "sft": 0.0},
    GRPO: {
        "learning_rate": 0.001, "batch_size": 32, "beta": 0.04, "group": 8, "updates": 1, "clip_ratio": 0.2,
        "advantage": "std", "average": "answer", "temperature": 1.0,
    },
}  # fmt: skip
_OTHERS = {
    DPO: ("chosen_key", "rejected_key"),
    GRPO: ("completion_key", "reward_pattern", "reward_function", "max_new_tokens"),
}
DEFAULT_LENGTHS: dict[str, dict[str, object]] = {DPO: {"epochs": 2.0}, GRPO: {"steps": 300}}


@dataclass(frozen=True)
class Preferred:
    """The start of a run, the preferences to learn from, and those it is judged on."""

    settings: AlignSettings
    base: ModelFolder
    train: tuple[Preference, ...]
    held_out: tuple[Preference, ...]


@dataclass(frozen=True)
class Rewarded:
    """The start of a run, the prompts to answer, those it is judged on, and what its answers earn."""

    settings: AlignSettings
    base: ModelFolder
    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    reward: Reward


Goals = Preferred | Rewarded


def settled(settings: AlignSettings) -> AlignSettings:
    """Return the settings with what was left open filled in. Raises UsageError for what does not go together."""
    other = GRPO if settings.method == DPO else DPO
    foreign = [*(set(DEFAULTS[other]) - set(DEFAULTS[settings.method])), *_OTHERS[other]]
    for name in sorted(foreign):
        if getattr(settings, name) is not None:
            raise UsageError(f"{flag_of(name)} goes with --method {other}, not with {settings.method}")
    if settings.reward_pattern is not None and settings.reward_function is not None:
        raise UsageError("--reward-pattern and --reward-function are two rewards", hint="give one of them")
    if settings.output.resolve() == settings.model.resolve():
        raise UsageError("the aligned model needs a folder of its own", hint="another folder with -o")
    if not settings.pairs:
        raise UsageError("which pairs?", hint="give at least one file, or - for stdin")
    chosen = DEFAULTS[settings.method]
    if not any((settings.time, settings.steps, settings.tokens, settings.epochs)):
        chosen = {**chosen, **DEFAULT_LENGTHS[settings.method]}
    filled: dict[str, Any] = {
        name: value for name, value in chosen.items() if getattr(settings, name) is None
    }
    return replace(settings, **filled)


def prepare_goals(settings: AlignSettings, cache: Path, *, say: Callable[[str], None]) -> Goals:
    """Open the start and the reward, read the rows and hold some out. Raises PairsError where there are too few."""
    settings = settled(settings)
    base = open_model(settings.model, cache)
    if not base.is_chat:
        say("this model was never fine-tuned: its answers are a beginner's (gencli finetune comes first)")
    goals: Goals
    if settings.method == DPO:
        preferences = tuple(row for file in _preference_files(settings, say) for row in file.preferences)
        train, held_out = parted(preferences, _asked, share=settings.validation)
        goals = Preferred(settings, base, tuple(train), tuple(held_out))
    else:
        reward = _reward(settings)
        prompts = tuple(row for file in _prompt_files(settings, say) for row in file.prompts)
        learned, judged = parted(prompts, _asked, share=settings.validation)
        say(f"reward: {reward.words}")
        goals = Rewarded(settings, base, tuple(learned), tuple(judged), reward)
    if not goals.train:
        raise PairsError("there is nothing to learn", hint="add rows with other prompts")
    return goals


def _reward(settings: AlignSettings) -> Reward:
    if settings.reward_function is not None:
        return OwnFunction(settings.reward_function)
    return PatternMatch(settings.reward_pattern) if settings.reward_pattern is not None else ExactMatch()


def _preference_files(settings: AlignSettings, say: Callable[[str], None]) -> list[PreferencesFile]:
    files = [
        read_preferences(
            path, encoding=settings.encoding, prompt_key=settings.prompt_key, chosen_key=settings.chosen_key,
            rejected_key=settings.rejected_key,
        )
        for path in settings.pairs
    ]  # fmt: skip
    for line in (line for file in files for line in told(file, len(file.preferences), "preferences")):
        say(line)
    return files


def _prompt_files(settings: AlignSettings, say: Callable[[str], None]) -> list[PromptsFile]:
    answered = settings.reward_pattern is None and settings.reward_function is None
    files = [
        read_prompts(
            path, encoding=settings.encoding, prompt_key=settings.prompt_key,
            completion_key=settings.completion_key, answered=answered,
        )
        for path in settings.pairs
    ]  # fmt: skip
    for line in (line for file in files for line in told(file, len(file.prompts), "prompts")):
        say(line)
    return files


def _asked(row: Preference | Prompt) -> str:
    return "\0".join(turn.text for turn in row.turns)
