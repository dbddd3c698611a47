"""What alignment adds to fine-tuning: a reward for checkable answers (GRPO), and preferences (DPO).

    python -m tests.benchmarks.alignment DATA [PART...] [--work FOLDER] [--threads 1]

DATA is a folder with verify_train.jsonl, verify_test.jsonl and en_preference.jsonl. One JSON line a figure; each part
runs with three seeds. Bases are small, pretrained on the training rows' own text.

- reward: exact match on verify_test.jsonl of greedy answers, of fine-tuning alone and of GRPO after it, both on
  verify_train.jsonl
- preference: on a held-out tenth of the prompts, the margin and the share of pairs ranked right, before and after DPO;
  the start was fine-tuned on better and worse answers alike
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
SMALL = ("--layers", 4, "--width", 128, "--heads", 4, "--batch-size", 64)
REWARD_BASE = (*SMALL, "--context", 48, "--vocab-size", 400, "--steps", 300)
PREFERENCE_BASE = (*SMALL[:-1], 16, "--context", 192, "--vocab-size", 2000, "--steps", 200)

Row = dict[str, str]


@dataclass(frozen=True)
class Bench:
    """Where the data and the work are, and what every command is given."""

    data: Path
    work: Path
    threads: int

    def run(self, *arguments: object) -> list[dict[str, Any]]:
        """Run the program; return the objects that it printed."""
        words = [*map(str, arguments), "--threads", str(self.threads), "--json", "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "gencli", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, name: str, text: str, base: Sequence[object], pairs: Path, *tuning: object) -> Path:
        """Return a model pretrained on a text and fine-tuned on pairs, made once in this work folder."""
        written, made, tuned = (self.work / f"{name}{end}" for end in (".txt", "-base", "-tuned"))
        if not (tuned / "model.safetensors").exists():
            written.write_text(text, encoding="utf-8")
            self.run("pretrain", written, "-m", made, "--overwrite", *base)
            self.run("finetune", pairs, "-m", made, "-o", tuned, "--task", "answer", "--overwrite", *tuning)
        return tuned


def reward(bench: Bench, tuning: Sequence[object], aligning: Sequence[object]) -> None:
    """Compare exact match after fine-tuning alone and after GRPO."""
    train, test = bench.data / "verify_train.jsonl", bench.data / "verify_test.jsonl"
    text = "\n\n".join(f"{row['prompt']}\n{row['completion']}" for row in rows_in(train))
    tuned = bench.start("reward", text, REWARD_BASE, train, *tuning)
    alone = exact_match(bench, tuned, test)
    show("grpo", what="exact match on verify_test, fine-tuning alone", value=alone)
    gains = []
    for seed in SEEDS:
        out, began = bench.work / f"grpo-{seed}", time.monotonic()
        events = bench.run(
            "align",
            train,
            "-m",
            tuned,
            "-o",
            out,
            "--method",
            "grpo",
            "--seed",
            seed,
            "--overwrite",
            *aligning,
        )
        rewards = [event["reward"] for event in events if event["event"] == "step"]
        found = exact_match(bench, out, test)
        gains.append(found - alone)
        tenth = max(1, len(rewards) // 10)
        show(
            "grpo", what="exact match on verify_test, after GRPO", seed=seed, value=found, gain=found - alone,
            reward_before=sum(rewards[:tenth]) / tenth, reward_after=sum(rewards[-tenth:]) / tenth,
            steps=len(rewards), seconds=time.monotonic() - began,
        )  # fmt: skip
    show("grpo", what="mean gain", value=sum(gains) / len(gains), ok=min(gains) > 0)


def preference(bench: Bench, tuning: Sequence[object], aligning: Sequence[object]) -> None:
    """Compare margin and ranking on held-out prompts before and after DPO."""
    file = bench.data / "en_preference.jsonl"
    both = [(row["prompt"], row[side]) for row in rows_in(file) for side in ("chosen", "rejected")]
    pairs = bench.work / "both.jsonl"
    pairs.write_text(
        "".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in both)
    )
    text = "\n\n".join(f"{prompt}\n{answer}" for prompt, answer in both)
    tuned = bench.start("preference", text, PREFERENCE_BASE, pairs, *tuning)
    for seed in SEEDS:
        out, began = bench.work / f"dpo-{seed}", time.monotonic()
        events = bench.run(
            "align", file, "-m", tuned, "-o", out, "--method", "dpo", "--seed", seed, "--overwrite", *aligning
        )
        judged = [event for event in events if event["event"] == "evaluation"]
        before, after = judged[0], next(event for event in reversed(judged) if event["best"])
        figures = {
            f"{name}_{when}": event[f"val_{name}"]
            for name in ("margin", "ranked_right", "likelier")
            for when, event in (("before", before), ("after", after))
        }
        raised = all(
            figures[f"{n}_after"] > figures[f"{n}_before"] for n in ("margin", "ranked_right", "likelier")
        )
        show(
            "dpo", what="held-out preferences", seed=seed, **figures, steps=events[-1]["steps"],
            seconds=time.monotonic() - began, ok=raised,
        )  # fmt: skip


PARTS: dict[str, Callable[[Bench, Sequence[object], Sequence[object]], None]] = {
    "reward": reward,
    "preference": preference,
}


def exact_match(bench: Bench, model: Path, test: Path) -> float:
    """Return the share of prompts that a model answers exactly, greedily."""
    return float(bench.run("evaluate", test, "-m", model, "--pairs")[-1]["exact_match"])


def rows_in(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def show(bench: str, **more: object) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in more.items()}
    sys.stdout.write(json.dumps({"bench": bench, **rounded}) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--finetune", default="", help="more options of finetune, in one text")
    parser.add_argument("--align", default="", help="more options of align, in one text")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for part in asked.parts:
            PARTS[part](Bench(asked.data, work, asked.threads), asked.finetune.split(), asked.align.split())


if __name__ == "__main__":
    main()
