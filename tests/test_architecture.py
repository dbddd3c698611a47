"""The rules of the house: who may import whom, what start-up may load, how large a module may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gencli

ROOT = Path(gencli.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
# An import points only to the same floor or one further down; training and decoding stand side by side.
FLOORS = [
    ["errors"], ["storage", "knobs"], ["kernels", "settings"], ["text"], ["model"], ["training", "decoding"],
    ["evaluation", "verification", "api", "alignment"], ["ui"], ["cli", "__main__"],
]  # fmt: skip
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, at_start: bool = False) -> set[str]:
    """Return the modules that a file imports; `at_start` only those it imports when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.stmt] = (
        list(tree.body) if at_start else [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
    )
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "gencli" and len(parts) > 1 and parts[1] in FLOOR_OF:
            other = parts[1]
            assert FLOOR_OF[other] <= FLOOR_OF[room], f"{path} imports {name}"
            side_by_side = {room, other} == {"training", "decoding"}
            assert not side_by_side, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("torch", {"model", "training", "decoding", "evaluation", "verification", "alignment"}),
        ("rich", {"ui"}),
        ("typer", {"cli"}),
        ("click", set()),
    ],
)
def test_each_library_stays_in_its_rooms(library: str, rooms: set[str]) -> None:
    users = {
        room_of(path) for path in MODULES if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= rooms


@pytest.mark.parametrize(
    "path", sorted((ROOT / "decoding").glob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_only_its_engine_needs_torch_for_decoding(path: Path) -> None:
    assert ("torch" in imports(path)) == (path.name == "torch_engine.py")


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "numba", "numpy", "sentencepiece", "safetensors", "transformers", "llguidance"}


LOAD = "from gencli.cli.commands import load\nload({words})"


def test_help_loads_nothing_heavy() -> None:
    assert not HEAVY & loaded_by(LOAD.format(words=[]))
    assert not (HEAVY | {"rich", "typer"}) & loaded_by("import gencli")


def test_help_is_little_work() -> None:
    """A count, not a time: the modules that help imports beyond those of a bare interpreter and Typer."""
    bare = loaded_by("import typer, rich.console, dataclasses, pathlib, difflib, tomllib, typing")
    assert len(loaded_by(LOAD.format(words=[])) - bare) < 60


def test_a_command_reads_no_other_one() -> None:
    loaded = loaded_by(LOAD.format(words=["generate"]))
    assert "gencli.cli.generate" in loaded
    assert not {"gencli.cli.chat", "gencli.cli.pretrain", "gencli.settings.training"} & loaded


def test_generating_on_the_cpu_loads_no_torch(model_folder: Path) -> None:
    code = (
        "from gencli.cli.app import run\n"
        f"run(['generate', 'x', '-m', {str(model_folder)!r}, '-n', '2', '-q', '--engine', 'cpu', '--json'])"
    )
    loaded = loaded_by(code)
    assert "llvmlite" in loaded and not {"torch", "transformers", "llguidance", "pydantic"} & loaded
    assert "numba" not in loaded_by(code)  # what it compiled is there now


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 370
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 75, f"{path}: {node.name}"


FORBIDDEN = {"pickle", "dill", "marshal", "shelve", "yaml", "tarfile"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    assert not FORBIDDEN & {name.split(".")[0] for name in imports(path)}
    text = path.read_text(encoding="utf-8")
    for call in ("eval(", "exec(", "torch.load(", "np.load(", "os.system(", "shell=True"):
        assert call not in text.replace("model.eval()", "").replace(".eval()", "")
