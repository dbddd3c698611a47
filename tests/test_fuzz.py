"""Damaged files never crash gencli: a few hundred inputs in every run, thousands by `python -m tests.fuzz`."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gencli.errors import ModelError
from tests.fuzz.mutations import MUTATIONS, Mutation, mutated
from tests.fuzz.targets import Target, targets
from tests.fuzz.trials import ACCEPTED, FAILURES, opened

INPUTS = 450  # 30 of each kind


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return targets(tmp_path_factory.mktemp("fuzz"))


def run(*arguments: object) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.fuzz", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [record for record in records if record["event"] == "failure"], records
    assert done.returncode == 0, done.stderr
    return records


def test_damaged_files_are_accepted_or_refused() -> None:
    *each, everything = run("--inputs", INPUTS, "--seed", os.environ.get("GENCLI_FUZZ_SEED", "1"))
    assert [everything[name] for name in FAILURES] == [0] * len(FAILURES)
    assert everything["inputs"] == INPUTS == sum(int(str(record["inputs"])) for record in each)
    assert int(str(everything["refused"])) > INPUTS // 2 and int(str(everything["accepted"])) > INPUTS // 20
    assert float(str(everything["peak_mb"])) < 400


def test_one_input_can_be_made_again() -> None:
    first, second = (run("--seed", 5, "--only", 17) for _ in range(2))
    assert first == second and first[0]["event"] == "again"


def test_the_files_are_accepted_as_they_are(kinds: list[Target], tmp_path: Path) -> None:
    for target in kinds:
        room = tmp_path / target.kind
        if target.room:
            shutil.copytree(target.room, room)
        room.mkdir(exist_ok=True)
        for sample in target.samples:
            (room / target.name).write_bytes(sample)
            assert opened(target, room / target.name) == ACCEPTED, (target.kind, sample[:200])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_every_mutation_changes_any_data(mutation: Mutation) -> None:
    draw = random.Random(2)
    for data in (b'{"layers": 12, "width": 64}\n' * 9, bytes(range(256))):
        changed = [mutation(draw, data, (data, b"other 7\n")) for _ in range(30)]
        assert sum(each != data for each in changed) > 15
    for data in (b"", b"a"):
        for _ in range(30):
            mutation(draw, data, (b"", data))


def test_mutations_are_repeatable() -> None:
    data = (b"one 1\ntwo 2\n", b"three 3\n")
    assert mutated(random.Random("a"), data[0], data) == mutated(random.Random("a"), data[0], data)


def test_a_failure_is_a_failure(tmp_path: Path, kinds: list[Target]) -> None:
    def broken(_: Path) -> None:
        raise ValueError("a bug")

    def refusing(_: Path) -> None:
        raise ModelError("no")

    with pytest.raises(ValueError, match="a bug"):
        opened(Target("kind", "name", (b"",), broken), tmp_path)
    assert opened(Target("kind", "name", (b"",), refusing), tmp_path) != ACCEPTED
