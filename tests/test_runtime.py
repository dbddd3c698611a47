"""What is decided from the machine, and that deciding otherwise gives the same model."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from gencli.errors import MachineError
from gencli.kernels.team import cores
from gencli.model.gpt import GPT
from gencli.model.scoring import Batch
from gencli.training import runtime as module
from gencli.training.gradients import Gradients
from gencli.training.runtime import Runtime, choose_runtime, undisturbed, with_compiler
from gencli.training.world import World
from tests.conftest import tiny_shape

CPU = torch.device("cpu")
PLAIN = Runtime(CPU, torch.float32, 1)


@pytest.mark.parametrize(("gain", "dtype"), [(0.1, torch.float32), (2.5, torch.bfloat16)])
def test_bfloat16_is_taken_where_it_is_faster(
    gain: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "bfloat16_gain", lambda device: gain)
    assert choose_runtime("cpu").dtype == dtype
    assert choose_runtime("cpu", precision="float32").dtype == torch.float32
    assert choose_runtime("cpu", precision="bfloat16").dtype == torch.bfloat16


def test_the_gain_of_bfloat16_is_measured() -> None:
    assert 0 < module.bfloat16_gain(CPU) < 100


def test_no_more_threads_than_cores() -> None:
    before = torch.get_num_threads()
    try:
        assert 1 <= choose_runtime("cpu").threads <= cores()
        assert choose_runtime("cpu", threads=1).threads == torch.get_num_threads() == 1
        assert "1 thread," in choose_runtime("cpu", threads=1).describe()
    finally:
        torch.set_num_threads(before)


def decided(choice: str, seconds: float | None, cache: Path) -> Runtime:
    return with_compiler(PLAIN, choice, seconds=seconds, cache=cache, work="some work")


def test_a_run_is_compiled_where_that_saves_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_compiler", lambda device: "")
    assert not decided("auto", 1e9, tmp_path).compiled  # it gains nothing here
    monkeypatch.setitem(module.COMPILED_GAIN, "cpu", 0.2)
    enough = 1.1 * module.COMPILING_SECONDS / 0.2
    assert not decided("auto", 0.5 * enough, tmp_path).compiled
    assert not decided("auto", None, tmp_path).compiled
    assert decided("on", None, tmp_path).compiled
    assert not decided("off", enough, tmp_path).compiled
    compiled = decided("auto", enough, tmp_path)
    assert compiled.compiled and "compiled" in compiled.describe()
    compiled.mark_compiled()
    assert decided("auto", 0.5 * enough, tmp_path).compiled  # now it is in the cache


def test_without_a_compiler_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not decided("auto", 1e9, tmp_path).compiled
    with pytest.raises(MachineError, match=r"C\+\+ compiler"):
        decided("on", 1e9, tmp_path)


def gradients_of(runtime: Runtime) -> tuple[Runtime, dict[str, torch.Tensor]]:
    model = GPT(tiny_shape()).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    ids = np.random.default_rng(0).integers(0, model.shape.vocabulary, (2, 17))
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), 32)
    gradients = Gradients(model, runtime, World(), seed=0, rows_at_once=0, example=batch)
    gradients.backward(batch, 0)
    return gradients.runtime, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.skipif(bool(module.missing_compiler(CPU)), reason="no C++ compiler")
def test_compiled_gradients_are_the_eager_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    used, compiled = gradients_of(decided("on", None, tmp_path))
    assert used.compiled and not used.trouble
    _, eager = gradients_of(PLAIN)
    assert compiled.keys() == eager.keys()
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_failing_compiler_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ld: no space\nmore")

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", broken)
    )
    used, gradients = gradients_of(Runtime(CPU, torch.float32, 1, compiled=True))
    assert gradients and not used.compiled
    assert "ld: no space" in used.describe() and "more" not in used.describe()


def test_the_garbage_collector_waits() -> None:
    assert gc.isenabled()
    with undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()
