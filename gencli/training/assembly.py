"""Puts the parts of a run together: the same for pretraining and fine-tuning."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import gencli
from gencli.errors import CompleteError, RunStateError
from gencli.knobs import seconds_of
from gencli.model.adapter import Adapter
from gencli.model.card import model_card
from gencli.model.folder import TRAINING, ModelFolder, publish, weights_file
from gencli.model.gpt import GPT
from gencli.model.lora import merged, updates
from gencli.settings.training import Training
from gencli.storage import check_space, digest_of, sweep_staging
from gencli.text.tokenizer import Tokenizer
from gencli.training import checkpoint
from gencli.training.batches import Batches
from gencli.training.events import Event
from gencli.training.held_out import Judge
from gencli.training.loop import Habits, Length, Run, RunState
from gencli.training.metrics import NAME as METRICS
from gencli.training.metrics import ended_in_order
from gencli.training.objective import Objective
from gencli.training.optimizer import Optimizer, Rates
from gencli.training.run_record import RunRecord, check_alike, check_same, read_record
from gencli.training.runtime import DTYPES, Runtime, choose_runtime
from gencli.training.sharding import ShardedOptimizer, shard, whole
from gencli.training.world import World

# The rates of embedding and head keep these proportions to that of the matrices.
EMBEDDING_RATE, HEAD_RATE = 2.0, 0.15
NOTHING = Length()
PARAMETER_BYTES = 16  # on the disk: in a checkpoint at most three numbers, in the model one


@dataclass(frozen=True)
class Outside:
    """How a run reaches the world: what it may call, and how long the command has run when it begins."""

    say: Callable[[str], None]
    stop: Callable[[], int | None]
    clock: Callable[[], float]
    sample: Callable[[GPT, Tokenizer], tuple[str, str]] | None = None
    world: World = field(default_factory=World)
    cache: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "gencli")
    save_asked: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from."""

    kind: str
    command: str
    digests: dict[str, str]
    parent: dict[str, object] | None = None
    extra: dict[str, object] = field(default_factory=dict)
    adapter: Adapter | None = None  # what is learned is kept as this adapter, apart from the base


def parent_of(base: ModelFolder) -> dict[str, object]:
    """Return what a model's lineage tells of the model that it began as."""
    return {"path": str(base.path), "weights": digest_of(weights_file(base.path)), "lineage": base.lineage}


def runtime_for(settings: Training, world: World) -> Runtime:
    """Return where and how this process of the run computes."""
    chosen = choose_runtime(
        world.device(settings.device), precision=settings.precision, threads=settings.threads
    )
    # Measured anew by each process and each time, the choice might differ: the first one's counts.
    return replace(chosen, dtype=DTYPES[world.told({"precision": chosen.precision_name})["precision"]])


def length_of(
    settings: Training,
    steps_per_epoch: int,
    *,
    default_seconds: float | None = None,
    spent: Length = NOTHING,
) -> Length:
    """Return the limits that the settings give, or the default where they give none.

    What a run before `spent` is taken off.
    """
    seconds = seconds_of(settings.time) if settings.time else None
    epochs = settings.epochs
    if not any((seconds, settings.steps, settings.tokens, epochs)):
        seconds = default_seconds
    steps_left = max(1, settings.steps - (spent.steps or 0)) if settings.steps else None
    tokens = max(1, settings.tokens - (spent.tokens or 0)) if settings.tokens else None
    limits = [steps_left, math.ceil(epochs * steps_per_epoch) if epochs else None]
    steps = min((limit for limit in limits if limit), default=None)
    if seconds:
        seconds = max(1.0, seconds - (spent.seconds or 0.0))
    return Length(seconds=seconds, steps=steps, tokens=tokens)


def assemble(
    settings: Training,
    folder: Path,
    *,
    model: GPT,
    tokenizer: Tokenizer,
    batches: Batches,
    held_out: Judge | None,
    runtime: Runtime,
    length: Length,
    lineage: Lineage,
    outside: Outside,
    plan: Event | None = None,
    objective: Callable[[GPT], Objective] = Objective,
    evaluate_start: bool = False,  # before the first step, so that nothing worse is ever published
) -> Run:
    """Return the run, at its beginning or, with `resume`, where its newest checkpoint left it.

    Raises RunStateError if the processes of the run were given different things.
    """
    world = outside.world
    assert settings.learning_rate is not None
    rates = Rates(
        matrices=settings.learning_rate,
        embedding=settings.learning_rate * EMBEDDING_RATE,
        head=settings.learning_rate * HEAD_RATE,
        adapter=settings.learning_rate,
        weight_decay=settings.weight_decay or 0.0,
        average=settings.averaging or 0.0,
    )
    settings = replace(settings, precision=runtime.precision_name)  # a resumed run keeps it
    training = folder / TRAINING
    record = RunRecord(
        lineage.command,
        json.loads(json.dumps(_as_dict(settings), default=str)),
        lineage.digests,
        world.launch,
    )
    if settings.resume:
        before = read_record(training)
        check_same(before, record.settings, record.digests)
        record = replace(record, run_id=before.run_id)
    check_alike(record, world.told(dataclasses.asdict(record)))
    sample = outside.sample if world.leads and not settings.shard else None
    run = Run(
        model=model,
        batches=batches,
        optimizer=_placed(settings, model, rates, runtime),
        runtime=runtime,
        length=length,
        habits=_habits(settings),
        folder=training,
        name=str(folder),
        run_id=record.run_id,
        publish=lambda state: _publish(folder, model, tokenizer, record, lineage, state, world),
        held_out=held_out,
        objective=objective,
        sample=(lambda: sample(model, tokenizer)) if sample is not None else None,
        stop=outside.stop,
        save_asked=outside.save_asked,
        clock=outside.clock,
        fixed={
            "shape": dataclasses.asdict(model.shape), "threads": runtime.threads, "processes": world.size,
            "precision": runtime.precision_name,
            "torch": torch.__version__,
        },
        state=RunState(evaluation_due=evaluate_start),
        world=world,
        plan=plan,
    )  # fmt: skip
    if settings.resume:
        _resume(run, outside)
    run.begin = lambda: _begin(folder, settings, record, model.shape.parameters)
    return run


def _habits(settings: Training) -> Habits:
    return Habits(
        seed=settings.seed, warmup=settings.warmup, decay=settings.decay, clip=settings.clip,
        rows_at_once=settings.rows_at_once, evaluations=settings.evaluations,
        evaluate_every=settings.evaluate_every, save_every=settings.save_every, patience=settings.patience,
    )  # fmt: skip


def _placed(settings: Training, model: GPT, rates: Rates, runtime: Runtime) -> Optimizer:
    """Move the model to where it is trained, whole or split; return its optimizer."""
    if settings.shard:
        shard(model, runtime.device)
        return ShardedOptimizer(model, rates, dtype=runtime.dtype)
    model.to(runtime.device)
    return Optimizer(model, rates, dtype=runtime.dtype)


def _resume(run: Run, outside: Outside) -> None:
    if not ended_in_order(run.folder / METRICS):
        outside.say("the run before did not end in order: a failure, a kill, or the memory was full")
    saved, skipped = checkpoint.newest(run.folder, run.run_id)
    for reason in skipped:
        outside.say(f"passed over a damaged checkpoint: {reason}")
    if saved is None:
        if weights_file(run.folder.parent).exists():
            raise RunStateError(
                "this model has no checkpoint to go on from",
                where=str(run.folder),
                kept="nothing was touched",
                hint="--overwrite to train it anew, or another folder",
            )
        outside.say("the run had saved no checkpoint yet; it begins again")
        return
    for name in ("threads", "processes", "precision", "torch"):
        before, now = saved.state.get(name), run.fixed[name]
        if before != now:
            outside.say(f"{name}: {before} before, {now} now: the result may differ in the last digits")
    run.resume(saved)
    state, early = run.state, run.is_out_of_patience
    if early or run.length.progress(seconds=state.seconds, steps=state.step, tokens=state.tokens) >= 1:
        if run.world.leads:
            sweep_staging(run.folder)  # a process that was killed in its last moment
        raise CompleteError(
            f"this run is complete: {state.step:,} steps, {state.tokens:,} tokens, {state.seconds:.0f} s"
            + (", stopped early" if early else ""),
            where=run.name,
            hint="give more --patience to go on"
            if early
            else "give a longer --time, --steps, --tokens or --epochs to go on",
        )
    lasted, clock = run.state.seconds, run.clock
    run.clock = lambda: lasted + clock()
    outside.say(f"resumed from step {saved.step:,}")


def check_folder(folder: Path, settings: Training) -> None:
    """Make sure that the run may write here. Raises RunStateError when a model is in the way."""
    taken = weights_file(folder).exists() or checkpoint.steps_in(folder / TRAINING)
    if taken and not settings.resume and not settings.overwrite:
        raise RunStateError(
            "there is a model in this folder already",
            where=str(folder),
            kept="nothing was touched",
            hint="--resume to go on with it, --overwrite to replace it, or another folder",
        )


def _begin(folder: Path, settings: Training, record: RunRecord, parameters: int) -> None:
    """Take possession of the folder, now that the run is sure to start: what it replaces goes.

    Raises MachineError if its first checkpoint and model would not fit on the disk.
    """
    sweep_staging(folder)
    check_space(folder, PARAMETER_BYTES * parameters)
    if not settings.resume:
        checkpoint.clear(folder / TRAINING, run_before(folder / TRAINING))
    record.write(folder / TRAINING)


def run_before(training: Path) -> str:
    """Return the name of the run that this folder is of until now, "" if there is no record of one."""
    try:
        return read_record(training).run_id
    except RunStateError:
        return ""


def _publish(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer,
    record: RunRecord,
    lineage: Lineage,
    state: RunState,
    world: World,
) -> None:
    """Make the current weights the model's. Every process calls this, and the first one writes."""
    weights = whole(merged(model) if lineage.adapter is None else updates(model), keep=world.leads)
    if not world.leads:
        return
    about: dict[str, object] = {
        "gencli": gencli.__version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kind": lineage.kind,
        "command": lineage.command,
        "settings": record.settings,
        "digests": lineage.digests,
        "parent": lineage.parent,
        "scores": {
            "step": state.best_step,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 1),
            "train_loss": state.smooth_loss,
            "val_loss": state.best_loss,
            "val_bits_per_byte": state.best_bits_per_byte,
            **state.best_figures,
        },
        **lineage.extra,
    }
    card = model_card(folder.name, model.shape, about)
    arrays = {name: weight.detach().float().cpu().numpy() for name, weight in weights.items()}
    publish(
        folder,
        arrays,
        shape=model.shape,
        tokenizer=tokenizer,
        lineage=about,
        card=card,
        adapter=lineage.adapter,
    )


def _as_dict(settings: Training) -> dict[str, object]:
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
