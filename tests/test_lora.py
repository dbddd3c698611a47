"""Updates of low rank: what is learned, merged and kept apart, and adapters of other tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from gencli.errors import ModelError, RunStateError
from gencli.model.adapter import ADAPTER, ADAPTER_CONFIG, MATRICES, Adapter
from gencli.model.folder import WEIGHTS, open_model
from gencli.model.gpt import GPT
from gencli.model.lora import Adapted, adapt, learned, merged, updates
from gencli.storage import digest_of
from gencli.training import checkpoint
from gencli.training.events import Done, Stopped
from gencli.training.loop import Run, fit
from gencli.training.optimizer import Optimizer, Rates
from tests.conftest import Cli, jsonl, random_model, same, tiny_shape
from tests.test_training import make_run

ADAPTED = Adapter("base", 3, 6.0)


def moved(model: GPT) -> GPT:
    """Give every update something to say."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learned(model).values():
            parameter.normal_(0.0, 0.2, generator=generator)
    return model


def test_at_first_nothing_is_changed_and_only_the_updates_learn() -> None:
    plain, model = random_model(tiny_shape(97)), adapt(random_model(tiny_shape(97)), ADAPTED, seed=0)
    tokens = torch.arange(24).view(2, 12)
    torch.testing.assert_close(model(tokens), plain(tokens))
    assert all(".lora_" in name for name in learned(model))
    assert len(learned(model)) == 2 * len(MATRICES) * plain.shape.layers
    assert learned(plain).keys() == dict(plain.named_parameters()).keys()
    before = {name: tensor.clone() for name, tensor in merged(model).items()}
    optimizer = Optimizer(moved(model), Rates(adapter=0.01))
    model(tokens).logsumexp(-1).sum().backward()
    updated = {name: p.detach().clone() for name, p in learned(model).items()}
    optimizer.step(1.0)
    after = merged(model)
    frozen = {name for name in before if name.split(".")[-2] not in MATRICES}
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not any(torch.equal(p, updated[name]) for name, p in learned(model).items())


def test_an_adapted_layer_is_the_formula_in_float64() -> None:
    layer = nn.Linear(8, 5, bias=False)
    adapted = Adapted(layer, Adapter("base", 2, 3.0), torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapted.lora_B.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    w, a, b = (t.detach().double() for t in (layer.weight, adapted.lora_A, adapted.lora_B))
    expected = x.double() @ w.T + 1.5 * (x.double() @ a.T) @ b.T
    torch.testing.assert_close(adapted(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_what_is_merged_and_what_an_adapter_adds_are_the_same() -> None:
    base = random_model(tiny_shape(97))
    model = moved(adapt(random_model(tiny_shape(97)), ADAPTED, seed=0))
    kept = {name: t.detach().numpy() for name, t in updates(model).items()}
    assert kept.keys() == ADAPTED.tensors(base.shape).keys()
    arrays = ADAPTED.merged(base.weights(), kept, base.shape)
    whole = GPT(base.shape).load(arrays).eval()
    tokens = torch.arange(24).view(2, 12)
    torch.testing.assert_close(whole(tokens), model(tokens), atol=1e-4, rtol=1e-4)
    for name, tensor in merged(model).items():
        np.testing.assert_allclose(arrays[name], tensor.detach().numpy(), atol=1e-5)


def lora_run(folder: Path) -> Run:
    run = make_run(folder, steps=8, evaluate_every=3)
    run.model = adapt(random_model(tiny_shape(97, context=16)), ADAPTED, seed=4)
    run.optimizer = Optimizer(run.model, Rates())
    return run


def test_a_resumed_run_of_updates_is_the_same_run(tmp_path: Path) -> None:
    straight, first, second = lora_run(tmp_path / "a"), lora_run(tmp_path / "b"), lora_run(tmp_path / "b")
    whole = list(fit(straight))
    first.stop = lambda: 15 if first.state.step >= 3 else None
    assert isinstance(list(fit(first))[-1], Stopped)
    found, _ = checkpoint.newest(tmp_path / "b")
    assert found is not None and all(".lora_" in name for name in found.weights)
    second.resume(found)
    rest = list(fit(second))
    ours, theirs = learned(straight.model), learned(second.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (
        isinstance(whole[-1], Done) and isinstance(rest[-1], Done) and whole[-1].val_loss == rest[-1].val_loss
    )
    plain = make_run(tmp_path / "c")
    with pytest.raises(RunStateError, match="another shape"):
        plain.resume(found)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return jsonl(
        tmp_path / "p.jsonl",
        *({"prompt": f"강 {n}", "completion": "산" if n % 2 else "바다"} for n in range(30)),
    )


@pytest.fixture
def kept(cli: Cli, tmp_path: Path, pairs: Path, model_folder: Path) -> Path:
    """Return an adapter on a copy of the random model, beside which it stands."""
    shutil.copytree(model_folder, tmp_path / "base")
    outcome = cli(
        "finetune", pairs, "-m", tmp_path / "base", "-o", tmp_path / "kept", "--lora", 4, "--adapter", "--steps", 6,
        "--lr", 0.05, "--threads", 1,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return tmp_path / "kept"


def test_an_adapter_is_small_and_opens_like_the_merged_model(
    cli: Cli, tmp_path: Path, kept: Path, pairs: Path, model_folder: Path
) -> None:
    assert (kept / ADAPTER).exists() and not (kept / WEIGHTS).exists() and not (kept / "config.json").exists()
    outcome = cli(
        "finetune", pairs, "-m", tmp_path / "base", "-o", tmp_path / "whole", "--lora", 4, "--steps", 6, "--lr", 0.05,
        "--threads", 1,
    )  # fmt: skip
    assert outcome.code == 0 and (tmp_path / "whole" / WEIGHTS).exists()
    ours, theirs = open_model(kept).weights(), open_model(tmp_path / "whole").weights()
    assert ours.keys() == theirs.keys() == open_model(model_folder).weights().keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-5)
    assert not same(ours, open_model(model_folder).weights())
    texts = [
        cli("generate", "강 1", "-m", folder, "-t", 0, "-n", 5).out for folder in (kept, tmp_path / "whole")
    ]
    assert texts[0] == texts[1] != ""
    assert cli("evaluate", pairs, "-m", kept, "--json").code == 0
    assert cli("inspect", "-m", kept).code == 0
    verified = cli("verify", kept)
    assert verified.code == 0, verified.err
    again = cli(
        "finetune", pairs, "-m", kept, "-o", tmp_path / "more", "--steps", 1, "--lora", 2, "--adapter"
    )
    assert again.code == 2 and "an adapter needs a whole model" in again.err
    assert cli("finetune", pairs, "-m", kept, "-o", tmp_path / "more", "--steps", 1).code == 0


def test_peft_finds_what_it_looks_for(kept: Path, tmp_path: Path) -> None:
    """The names and keys are those that PEFT writes itself for the same model."""
    config = json.loads((kept / ADAPTER_CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["task_type"]) == (
        "LORA",
        4,
        8.0,
        "CAUSAL_LM",
    )
    assert Path(config["base_model_name_or_path"]) == (tmp_path / "base").resolve()
    tensors = load_file(kept / ADAPTER)
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    assert tensors[f"{first}A.weight"].shape == (4, 32) and tensors[f"{first}B.weight"].shape == (32, 4)


def test_an_adapter_and_its_base_may_move_together_but_not_apart(
    cli: Cli, tmp_path: Path, kept: Path
) -> None:
    before = open_model(kept).weights()
    (tmp_path / "there").mkdir()
    for name in ("base", "kept"):
        shutil.move(tmp_path / name, tmp_path / "there" / name)
    assert same(open_model(tmp_path / "there" / "kept").weights(), before)
    other = tmp_path / "there" / "base" / WEIGHTS
    tensors = load_file(other)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, other)
    with pytest.raises(RunStateError, match="not the one that it was taught with"):
        open_model(tmp_path / "there" / "kept")
    shutil.rmtree(tmp_path / "there" / "base")
    outcome = cli("generate", "x", "-m", tmp_path / "there" / "kept")
    assert outcome.code == 3 and "the base model of this adapter is not there" in outcome.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "IA3"}, "LORA alone"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": 0}, "rank r"),
        ({"r": 10**9}, "rank r"),
        ({"r": 5}, "has the shape"),
        ({"lora_alpha": "x"}, "lora_alpha"),
        ({"target_modules": ["lm_head"]}, "target_modules"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"target_modules": ["q_proj"]}, "unknown: "),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(kept: Path, change: dict[str, object], told: str) -> None:
    config = json.loads((kept / ADAPTER_CONFIG).read_text())
    (kept / ADAPTER_CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=told):
        open_model(kept)


def test_flags_that_need_each_other(cli: Cli, tmp_path: Path, pairs: Path, model_folder: Path) -> None:
    outcome = cli("finetune", pairs, "-m", model_folder, "-o", tmp_path / "m", "--adapter")
    assert outcome.code == 2 and "--lora 8 --adapter" in outcome.err
    assert not (tmp_path / "m" / WEIGHTS).exists()


def test_an_adapter_is_aligned_like_a_whole_model(cli: Cli, tmp_path: Path, kept: Path) -> None:
    preferences = jsonl(
        tmp_path / "preferences.jsonl",
        *({"prompt": f"강 {n}?", "chosen": "river " * (1 + n % 3), "rejected": "바다"} for n in range(20)),
    )
    outcome = cli(
        "align", preferences, "-m", kept, "-o", tmp_path / "aligned", "--method", "dpo", "--steps", 2,
        "--batch-size", 4, "--threads", 1,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    lineage = json.loads((tmp_path / "aligned" / "gencli.json").read_text(encoding="utf-8"))
    assert digest_of(kept / ADAPTER) in json.dumps(lineage)
