"""From labelled pairs and a pretrained model to a training run: the loss is on the answers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gencli.errors import UsageError
from gencli.model.adapter import Adapter
from gencli.model.gpt import GPT
from gencli.model.lora import adapt
from gencli.model.scoring import Score
from gencli.model.task import Task
from gencli.settings.training import FinetuneSettings
from gencli.text.examples import Example, encode_pairs
from gencli.text.splits import Splits, parts_of
from gencli.text.tokenizer import Tokenizer
from gencli.training.assembly import NOTHING, Lineage, Outside, assemble, length_of, parent_of, runtime_for
from gencli.training.batches import PairBatches, pairs_in_order
from gencli.training.held_out import HeldOut, LabelScore, token_bytes_of
from gencli.training.label_targets import LabelTargets
from gencli.training.lessons import Lessons
from gencli.training.loop import Length, Run
from gencli.training.objective import Objective, SoftTargets
from gencli.training.prompts import Changes, Mixing, asked_of
from gencli.training.tuning import plan_of, planned

ROWS_AT_ONCE = 64  # when scoring
ALPHA = 2.0  # of the updates of low rank, times their rank


def prepare_finetuning(
    settings: FinetuneSettings, lessons: Lessons, outside: Outside, *, spent: Length = NOTHING
) -> Run:
    """Return a run that is ready to begin, or to go on from its newest checkpoint.

    What was `spent` before of each limit is taken off.
    """
    base, task = lessons.base, lessons.task
    tokenizer, shape = base.tokenizer, base.shape
    settings = planned(settings, task, len(lessons.train))
    assert settings.batch_size is not None
    train = encode_pairs(lessons.train, tokenizer, context=shape.context)
    held_out = encode_pairs(lessons.held_out, tokenizer, context=shape.context)
    for note in train.notes:
        outside.say(note)
    targets = _label_targets(settings, task, tokenizer)
    batches = PairBatches(
        train.examples,
        rows=settings.batch_size,
        seed=settings.seed,
        padding=tokenizer.pad,
        weights=lessons.weights,
        targets=targets,
        changes=_changes(settings, lessons, train.examples, targets),
    )
    judged = list(pairs_in_order(held_out.examples, rows=ROWS_AT_ONCE, padding=tokenizer.pad))
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=0.0)
    kind = LabelScore if task.has_labels else Score
    weights, parent = base.weights(), parent_of(base)
    adapter = _adapter(settings, lessons)
    model = GPT(shape, dropout=settings.dropout or 0.0).load(weights)
    if adapter is not None:
        adapt(model, adapter, seed=settings.seed)
    lineage = Lineage(
        kind="finetuned",
        command="finetune",
        digests={
            "pairs": lessons.digest,
            "tokenizer": tokenizer.digest,
            "base model": str(parent["weights"]),
        },
        parent={**parent, "beside": os.path.relpath(base.path.resolve(), settings.output.resolve())},
        extra={"task": task.record(), "turns": lessons.most_turns},
        adapter=adapter if settings.adapter else None,
    )
    return assemble(
        settings,
        settings.output,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        held_out=HeldOut(judged, sizes, answers=True, kind=kind) if judged else None,
        runtime=runtime_for(settings, outside.world),
        length=length_of(settings, batches.steps_per_epoch, spent=spent),
        lineage=lineage,
        outside=outside,
        plan=plan_of(
            settings,
            task,
            lessons.survey,
            (train.prompts_cut, train.answers_cut),
            batches.steps_per_epoch,
        ),
        objective=SoftTargets if targets is not None else Objective,
    )


def _adapter(settings: FinetuneSettings, lessons: Lessons) -> Adapter | None:
    """Return what describes the updates of low rank, if there are to be any. Raises UsageError."""
    if settings.adapter and not settings.lora:
        raise UsageError("--adapter keeps what --lora taught", hint="give it a rank: --lora 8 --adapter")
    if settings.lora and settings.shard:
        raise UsageError("--lora and --shard can't be combined", hint="a model this small needs one of them")
    if settings.adapter and lessons.base.adapter is not None:
        raise UsageError(
            f"{lessons.base.path} is an adapter, and an adapter needs a whole model for its base",
            hint="leave out --adapter: the new model is then a whole one",
        )
    if not settings.lora:
        return None
    return Adapter(str(lessons.base.path.resolve()), settings.lora, ALPHA * settings.lora)


def _changes(
    settings: FinetuneSettings, lessons: Lessons, examples: Sequence[Example], targets: LabelTargets | None
) -> Changes | None:
    """Return what is done to prompts, if anything."""
    mixed, splits, hidden = settings.prompt_mix, settings.prompt_splits, settings.prompt_dropout
    if not (mixed or splits or hidden):
        return None
    tokenizer, mixing = lessons.base.tokenizer, None
    if mixed and targets is not None and lessons.ngrams is not None:
        prompts = [ids for example in examples if (ids := example.ids[slice(*asked_of(example))])]
        mixing = Mixing(prompts, targets.labels, lessons.ngrams, tokenizer.piece_bytes, mixed)
    return Changes(
        lessons.base.shape.context + 1,
        mixing=mixing,
        splits=Splits(parts_of(tokenizer), splits) if splits else None,
        hidden=hidden or 0.0,
        gap=tokenizer.unk,
    )


def _label_targets(settings: FinetuneSettings, task: Task, tokenizer: Tokenizer) -> LabelTargets | None:
    """Return what turns beliefs into targets, if any are asked for. Raises UsageError where there are no labels."""
    for flag, value in (
        ("--label-smoothing", settings.label_smoothing),
        ("--prompt-mix", settings.prompt_mix),
    ):
        if value and not task.has_labels:
            raise UsageError(
                f"{flag} is for labels, and these are free answers",
                hint="leave it out, or say --task label",
            )
    if not (settings.label_smoothing or settings.prompt_mix):
        return None
    labels = [(*tokenizer.encode(label), tokenizer.eos) for label in task.labels]
    return LabelTargets(labels, settings.label_smoothing or 0.0)
