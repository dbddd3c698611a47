"""From preferences, or prompts and a reward, and a fine-tuned model to a run of the one training loop."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

from gencli.alignment.goals import Goals, Preferred, Rewarded
from gencli.alignment.preferring import (
    Contest,
    ContestBatches,
    PreferenceObjective,
    RankingJudge,
    held_out_batches,
    reference_logprobs,
)
from gencli.alignment.rollouts import RewardJudge, RewardObjective, Rollouts, Task, Terms
from gencli.alignment.writing import Writer
from gencli.decoding.prompts import turn_ids
from gencli.errors import StoppedError, UsageError
from gencli.model.gpt import GPT
from gencli.text.examples import Example, encode_pairs
from gencli.text.preferences import Preference
from gencli.text.prompts import Prompt
from gencli.text.tokenizer import Tokenizer
from gencli.training.assembly import Lineage, Outside, assemble, length_of, parent_of, runtime_for
from gencli.training.loop import Run
from gencli.training.runtime import Runtime

ROWS_AT_ONCE = 32  # contests that are scored together
ANSWERED_AT_ONCE = 128
MOST_JUDGED = 512  # held-out prompts that are answered in an evaluation
MOST_ANSWER_TOKENS, UNKNOWN_ANSWER_TOKENS = 256, 64


def prepare_alignment(goals: Goals, outside: Outside) -> Run:
    """Return a run that is ready to begin, or to go on from its newest checkpoint."""
    if outside.world.launched:
        raise UsageError("align runs in one process", hint="start it without torchrun")
    runtime = runtime_for(goals.settings, outside.world)
    start = goals.base.weights()
    model = GPT(goals.base.shape, dropout=goals.settings.dropout).load(start).to(runtime.device)
    if isinstance(goals, Preferred):
        return _by_preference(goals, outside, runtime, model)
    reference = GPT(goals.base.shape).load(start).to(runtime.device) if goals.settings.beta else None
    return _by_reward(goals, outside, runtime, model, reference)


def _by_preference(goals: Preferred, outside: Outside, runtime: Runtime, model: GPT) -> Run:
    settings, tokenizer = goals.settings, goals.base.tokenizer
    assert settings.batch_size and settings.beta is not None
    assert settings.label_smoothing is not None and settings.sft is not None
    train, held_out = (
        contests(rows, tokenizer, goals.base.shape.context, outside.say)
        for rows in (goals.train, goals.held_out)
    )

    def check() -> None:
        signal = outside.stop()
        if signal is not None:
            raise StoppedError(signal)

    # What the start thinks is computed once, here: no second model is kept for it.
    thought, held_out_thought = (
        reference_logprobs(model, each, runtime, rows=ROWS_AT_ONCE, padding=tokenizer.pad, check=check)
        for each in (train, held_out)
    )
    objective = functools.partial(
        PreferenceObjective, beta=settings.beta, smoothing=settings.label_smoothing, sft=settings.sft
    )
    batches = ContestBatches(
        train, thought, rows=settings.batch_size, seed=settings.seed, padding=tokenizer.pad
    )
    judged = held_out_batches(held_out, held_out_thought, rows=ROWS_AT_ONCE, padding=tokenizer.pad)
    return assemble(
        settings,
        settings.output,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        held_out=RankingJudge(judged, objective) if judged else None,
        runtime=runtime,
        length=length_of(settings, batches.steps_per_epoch),
        lineage=_lineage(goals),
        outside=outside,
        objective=objective,
        evaluate_start=bool(judged),
    )


def _by_reward(goals: Rewarded, outside: Outside, runtime: Runtime, model: GPT, reference: GPT | None) -> Run:
    settings, tokenizer = goals.settings, goals.base.tokenizer
    most = _most_new_tokens(goals, tokenizer)
    train, held_out = (
        tasks(rows, tokenizer, goals.base.shape.context - most, outside.say)
        for rows in (goals.train, goals.held_out)
    )
    if len(held_out) > MOST_JUDGED:
        outside.say(
            f"{MOST_JUDGED:,} of the {len(held_out):,} held-out prompts are answered in each evaluation"
        )
    judged = held_out[:: -(-len(held_out) // MOST_JUDGED)] if held_out else []
    writer = Writer(model, tokenizer, runtime, most=most)
    assert settings.batch_size and settings.group and settings.updates and settings.temperature
    assert settings.clip_ratio is not None and settings.beta is not None
    terms = Terms(
        prompts=settings.batch_size, group=settings.group, updates=settings.updates,
        temperature=settings.temperature, normalised=settings.advantage == "std", seed=settings.seed,
    )  # fmt: skip
    batches = Rollouts(model, reference, train, goals.reward, writer, runtime, terms)
    return assemble(
        settings,
        settings.output,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        held_out=RewardJudge(judged, goals.reward, writer, rows=ANSWERED_AT_ONCE) if judged else None,
        runtime=runtime,
        length=length_of(settings, batches.steps_per_epoch),
        lineage=_lineage(goals),
        outside=outside,
        objective=functools.partial(
            RewardObjective, clip=settings.clip_ratio, beta=settings.beta, temperature=settings.temperature,
            by_answer=settings.average == "answer",
        ),
        evaluate_start=bool(judged),
    )  # fmt: skip


def contests(
    preferences: Sequence[Preference], tokenizer: Tokenizer, context: int, say: Callable[[str], None]
) -> list[Contest]:
    """Return preferences as ids that fit the context; of earlier turns nothing is learned."""
    sides: list[list[Example]] = []
    for answers in ([row.chosen for row in preferences], [row.rejected for row in preferences]):
        pairs = [row.pair(answer) for row, answer in zip(preferences, answers, strict=True)]
        encoded = encode_pairs(pairs, tokenizer, context=context, last_only=True)
        for note in encoded.notes:
            say(note)
        sides.append(list(encoded.examples))
    return [Contest(chosen, rejected) for chosen, rejected in zip(*sides, strict=True)]


def tasks(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, room: int, say: Callable[[str], None]
) -> list[Task]:
    """Return prompts as at most `room` ids; one that is too long loses its beginning."""
    made, cut = [], 0
    for prompt in prompts:
        ids = turn_ids(tokenizer, prompt.turns)
        cut += len(ids) > room
        made.append(Task(prompt, tuple(ids if len(ids) <= room else [ids[0], *ids[len(ids) - room + 1 :]])))
    if cut:
        say(f"{cut:,} prompts leave no room for an answer and were cut from the left")
    return made


def _most_new_tokens(goals: Rewarded, tokenizer: Tokenizer) -> int:
    """Return how long an answer may be. Raises UsageError if that leaves no room for a prompt."""
    context, most = goals.base.shape.context, goals.settings.max_new_tokens
    if most is None:
        longest = max(len(tokenizer.encode(row.expected)) for row in goals.train)
        most = min(2 * longest + 8, MOST_ANSWER_TOKENS) if longest else UNKNOWN_ANSWER_TOKENS
        most = min(most, context // 2)
    if most > context - 4:
        raise UsageError(
            f"answers of {most:,} tokens leave no room for a prompt in the model's context of {context:,}",
            hint=f"--max-new-tokens {context // 2}",
        )
    return most


def _lineage(goals: Goals) -> Lineage:
    base, settings = goals.base, goals.settings
    parent = parent_of(base)
    digests = {
        "pairs": _digest(goals),
        "tokenizer": base.tokenizer.digest,
        "base model": str(parent["weights"]),
    }
    reward = goals.reward if isinstance(goals, Rewarded) else None
    if reward is not None:
        digests["reward"] = hashlib.sha256(reward.digest.encode()).hexdigest()
    kept = {"task": base.lineage["task"]} if "task" in base.lineage else {}
    return Lineage(
        kind="finetuned",
        command="align",
        digests=digests,
        parent=parent,
        extra={**kept, "method": settings.method, "reward": reward.words if reward else None},
    )


def _digest(goals: Goals) -> str:
    digest = hashlib.sha256()
    for row in (*goals.train, *goals.held_out):
        answers = (row.chosen, row.rejected) if isinstance(row, Preference) else (row.expected,)
        for text in (*(f"{turn.role}\0{turn.text}" for turn in row.turns), *answers):
            digest.update(f"{text}\0".encode())
        digest.update(b"\n")
    return digest.hexdigest()
