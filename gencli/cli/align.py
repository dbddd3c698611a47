"""gencli align: bring a fine-tuned model nearer to what is preferred or rewarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.places import earlier_run
from gencli.cli.together import check_together, together
from gencli.settings.alignment import AlignSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.loop import Run

SHOWN_PROMPTS = 8


@command(
    app,
    AlignSettings,
    saved=earlier_run("output"),
    within=together("output"),
    example="gencli align better.jsonl -m models/qa -o models/polite --method dpo\n"
    "gencli align sums.jsonl -m models/qa -o models/sure --method grpo --time 10m\n"
    "gencli align sums.jsonl -m models/qa -o models/short --method grpo --reward-function rewards.py:short",
)
def align(settings: AlignSettings) -> None:
    """Bring a fine-tuned model nearer to what you prefer or reward.

    dpo learns from rows of prompt, chosen and rejected. grpo lets the model answer each prompt several times and
    learns from a reward: the pair's own answer, a regular expression, or a Python function of yours, whose file
    runs as any program of yours does: only name one that you trust.
    """
    from gencli.alignment.aligning import prepare_alignment
    from gencli.alignment.goals import prepare_goals
    from gencli.cli.places import cache_folder
    from gencli.cli.session import sampler, train
    from gencli.model.folder import check_output
    from gencli.training.assembly import Outside
    from gencli.training.world import current
    from gencli.ui import Screen

    world = current()
    check_together(settings, settings.pairs)
    check_output(settings.output, overwrite=settings.overwrite or settings.resume)
    screen = Screen(quiet=settings.quiet or not world.leads)

    goals = prepare_goals(settings, cache_folder(), say=screen.note)

    def prepare(signals: Signals, clock: Callable[[], float]) -> Run:
        shown = sampler(
            [row.turns[-1].text for row in (goals.held_out or goals.train)[:SHOWN_PROMPTS]], chat=True
        )
        outside = Outside(screen.note, signals.stop, clock, shown, world, save_asked=signals.save_asked)
        return prepare_alignment(goals, outside)

    code = train(settings, settings.output, screen, prepare, json=settings.json, goal="aligning")
    if code:
        raise typer.Exit(code)
