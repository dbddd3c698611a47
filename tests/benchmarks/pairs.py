"""What labelled pairs teach a model that was pretrained for minutes, beside what scikit-learn makes of the same rows.

    python -m tests.benchmarks.pairs DATA [PART...] [--ko BASE] [--en BASE] [--koen BASE] [--work FOLDER] [--time 10m]

DATA is a folder with the public sets named below. A base that is given is used as it is; one that is not is
pretrained in the work folder for `--time` on the corpus of its language and the texts to label. Each part is one
JSON line a figure, with the same figure of

- TF-IDF of words (1-2) or of characters (2-4), the better of the two, with logistic regression on the same rows; for
  free answers the answer to the most similar prompt by characters (2-4), beside the model with and without --recall
- the same model without pretraining: same shape, tokenizer and fine-tuning
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.peers_of_pairs import best_linear, nearest_answers

CLASSIFIED = 5000  # texts that are timed


@dataclass(frozen=True)
class LabelSet:
    """Rows of text and label; `figure` is what is compared, and `owed` what it is to be above."""

    name: str
    language: str
    files: str
    figure: str
    owed: float


SENTIMENT = LabelSet("sentiment", "ko", "ko_sentiment", "accuracy", 0.8385)
SPAM = LabelSet("spam", "en", "en_sms_spam", "macro_f1", 0.959)
BANKING = LabelSet("banking", "en", "en_banking77", "accuracy", 0.908)
# What a base of a language, or of two, is pretrained on beside the texts that it is to learn from.
CORPORA = {"ko": ("ko_corpus.txt",), "en": ("en_books.txt",), "koen": ("ko_novels.txt", "en_tinystories.txt")}

Row = tuple[str, str]  # prompt and answer


@dataclass(frozen=True)
class Bench:
    """Where the data, the bases and the work are."""

    data: Path
    work: Path
    bases: dict[str, Path]
    seconds: str
    finetune: Sequence[str]

    def base(self, language: str) -> Path:
        """Return the base of a language, pretrained now if none is there."""
        path = self.bases.get(language, self.work / f"base-{language}")
        if not (path / "model.safetensors").exists():
            text = "\n".join((self.data / file).read_text(encoding="utf-8") for file in CORPORA[language])
            text += "\n" + "".join(f"{line}\n" for line in self.texts(language))
            file = self.work / f"corpus-{language}.txt"
            file.write_text(text, encoding="utf-8")
            gencli("pretrain", file, "-m", path, "--time", self.seconds, "--overwrite")
        return path

    def texts(self, language: str) -> list[str]:
        """Return the texts of the pairs that a base's models learn from: of a translation both sides."""
        if language == "koen":
            return [text for pair in translations(self.data)[0] for text in pair]
        sets = [labelled for labelled in (SENTIMENT, SPAM, BANKING) if labelled.language == language]
        return [text for each in sets for text, _ in rows(self.data, f"{each.files}_train")]

    def bare(self, language: str) -> Path:
        """Return a model of the base's shape and tokenizer whose weights are as drawn."""
        import torch

        from gencli.model.folder import open_model, publish
        from gencli.model.gpt import GPT

        path = self.work / f"bare-{language}"
        if not (path / "model.safetensors").exists():
            base = open_model(self.base(language))
            drawn = GPT(base.shape).initialise(torch.Generator().manual_seed(0)).weights()
            about = {"kind": "pretrained", "command": "none"}
            publish(
                path, drawn, shape=base.shape, tokenizer=base.tokenizer, lineage=about, card="# as drawn\n"
            )
        return path

    def tuned(self, train: Path, base: Path, name: str) -> tuple[Path, float]:
        """Return a model fine-tuned on a file of pairs, and how many seconds that took."""
        output = self.work / name
        began = time.perf_counter()
        gencli("finetune", train, "-m", base, "-o", output, "--overwrite", *self.finetune)
        return output, time.perf_counter() - began

    def score(self, test: Path, model: Path, *options: str) -> dict[str, Any]:
        """Return how a model scores on a file of pairs."""
        lines = gencli("evaluate", test, "-m", model, "--json", *options).splitlines()
        record: dict[str, Any] = json.loads(lines[0])
        return record


def labels(bench: Bench, labelled: LabelSet) -> None:
    """Print a set's figure, calibration, abstaining, and the times of fine-tuning and classifying."""
    train, test = (bench.data / f"{labelled.files}_{part}.jsonl" for part in ("train", "test"))
    model, seconds = bench.tuned(train, bench.base(labelled.language), labelled.name)
    ours = bench.score(test, model)
    bare, _ = bench.tuned(train, bench.bare(labelled.language), f"{labelled.name}-bare")
    peer, kind = best_linear(rows_in(train), rows_in(test), labelled.figure)
    show(
        f"{labelled.name}: {labelled.figure}", ours[labelled.figure], owed=labelled.owed, tfidf=peer, tfidf_of=kind,
        accuracy=ours["accuracy"], without_ngrams=ours["model_accuracy"], ngrams_count=ours["ngrams"],
        without_pretraining=bench.score(test, bare)[labelled.figure], pairs=ours["pairs"],
    )  # fmt: skip
    show(
        f"{labelled.name}: calibration error", ours["ece_after"], owed=0.03, before=ours["ece_before"],
        temperature=ours["temperature"], calibrated_by=ours["calibrated_by"],
    )  # fmt: skip
    surest = next(point for point in ours["coverage"] if point["coverage"] == 0.8)
    show(
        f"{labelled.name}: accuracy without the least sure fifth", surest["right"], of_all=ours["accuracy"],
        gain=surest["right"] - ours["accuracy"],
    )  # fmt: skip
    show(f"{labelled.name}: fine-tuning", seconds, owed=600, unit="s", rows=len(rows_in(train)))
    show(
        f"{labelled.name}: classifying", texts_a_minute(bench, test, model), owed=5000, unit="texts a minute"
    )


def texts_a_minute(bench: Bench, test: Path, model: Path) -> float:
    """Return how many texts a minute the whole process labels, start and all."""
    texts = [prompt for prompt, _ in rows_in(test)]
    many = [texts[number % len(texts)] for number in range(CLASSIFIED)]
    file = bench.work / "texts.txt"
    file.write_text("".join(f"{' '.join(text.split()) or '-'}\n" for text in many), encoding="utf-8")
    gencli("classify", "--input", file, "-m", model)  # the compiled code may not be there yet
    began = time.perf_counter()
    lines = gencli("classify", "--input", file, "-m", model).splitlines()
    assert len(lines) == len(many)
    return 60 * len(many) / (time.perf_counter() - began)


def answers(bench: Bench, name: str, language: str, train: list[Row], test: list[Row]) -> None:
    """Print how answers compare with the right ones, and with those to the most similar prompt."""
    files = [bench.work / f"{name}-{part}.jsonl" for part in ("train", "test")]
    for file, pairs in zip(files, (train, test), strict=True):
        lines = (json.dumps({"prompt": p, "completion": c}, ensure_ascii=False) + "\n" for p, c in pairs)
        file.write_text("".join(lines), encoding="utf-8")
    model, seconds = bench.tuned(files[0], bench.base(language), name)
    ours = bench.score(files[1], model)
    recalled = bench.score(files[1], model, "--recall") if (model / "memory.jsonl").exists() else {}
    bare, _ = bench.tuned(files[0], bench.bare(language), f"{name}-bare")
    drawn = bench.score(files[1], bare)
    peer = nearest_answers(train, test)
    for figure in ("chrf", "token_f1", "exact_match", "bleu"):
        show(
            f"{name}: {figure}", ours[figure], with_recall=recalled.get(figure), nearest_neighbour=peer[figure],
            without_pretraining=drawn[figure], pairs=len(test),
        )  # fmt: skip
    surest = next(point for point in ours["coverage"] if point["coverage"] == 0.5)
    show(
        f"{name}: token F1 of the surest half", surest["right"], of_all=ours["token_f1"], aurc=ours["aurc"],
        calibration_error=ours["ece_after"],
    )  # fmt: skip
    show(f"{name}: fine-tuning", seconds, unit="s", rows=len(train))


def translations(data: Path) -> tuple[list[Row], list[Row]]:
    """Return Korean sentences with their English, to learn and to test.

    All translations of a held-out sentence are held out.
    """
    lines = (data / "koen_tatoeba.tsv").read_text(encoding="utf-8").splitlines()[1:]
    pairs = [(line.split("\t")[0], line.split("\t")[1]) for line in lines]
    train = [pair for pair in pairs if not is_held_out(pair[0])]
    test = list({prompt: answer for prompt, answer in reversed(pairs) if is_held_out(prompt)}.items())
    return train, test


def translation(bench: Bench) -> None:
    """Korean to English, from a base that has read both."""
    answers(bench, "translation", "koen", *translations(bench.data))


def questions(bench: Bench) -> None:
    """Answer small talk in Korean."""
    answers(bench, "questions", "ko", rows(bench.data, "ko_qa_train"), rows(bench.data, "ko_qa_test"))


PARTS: dict[str, Callable[[Bench], None]] = {
    "sentiment": lambda bench: labels(bench, SENTIMENT),
    "spam": lambda bench: labels(bench, SPAM),
    "banking": lambda bench: labels(bench, BANKING),
    "translation": translation,
    "questions": questions,
}


def is_held_out(prompt: str) -> bool:
    """Tell whether a prompt belongs to the held-out tenth."""
    return int(hashlib.sha1(prompt.strip().encode()).hexdigest(), 16) % 10 == 0


def rows(data: Path, name: str) -> list[Row]:
    """Return the rows of one of the sets."""
    return rows_in(data / f"{name}.jsonl")


def rows_in(file: Path) -> list[Row]:
    """Return (text, label) or (prompt, completion) of each line."""
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(row.get("text", row.get("prompt")), row.get("label", row.get("completion"))) for row in found]


def gencli(*arguments: object) -> str:
    """Run the program; return what it printed. Its commentary goes to stderr."""
    command = [sys.executable, "-m", "gencli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def show(name: str, value: float, **more: object) -> None:
    """Print one figure as a JSON line."""
    rest = {key: round(other, 4) if isinstance(other, float) else other for key, other in more.items()}
    sys.stdout.write(
        json.dumps({"figure": name, "value": round(value, 4), **rest}, ensure_ascii=False) + "\n"
    )
    sys.stdout.flush()


def main() -> None:
    """Measure the parts asked for, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    for language in CORPORA:
        parser.add_argument(f"--{language}", type=Path, metavar="BASE")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--time", default="10m")
    parser.add_argument("--finetune", default="", help="more options of finetune, in one text")
    given = parser.parse_args()
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
    bases = {language: getattr(given, language) for language in CORPORA if getattr(given, language)}
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("GENCLI_CACHE", str(work / "cache"))
        bench = Bench(given.data, work, bases, given.time, given.finetune.split())
        for part in given.parts:
            PARTS[part](bench)


if __name__ == "__main__":
    main()
