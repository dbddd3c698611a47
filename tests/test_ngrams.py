"""N-grams as evidence of labels: what they are, how they are fitted and kept, what they add to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.helpers import extract_all_char_ngrams
from torch.nn import functional as F

from gencli.errors import ModelError
from gencli.evaluation.calibration import fit_ngrams
from gencli.model.ngrams import LONGEST, MOST_READ, NGRAMS, Ngrams, n_grams, read_ngrams, write_ngrams
from gencli.training import ngram_fitting
from gencli.training.ngram_fitting import fitted_ngrams

GOOD, BAD, OTHER = (
    ("재미있다", "최고", "great"),
    ("지루하다", "최악", "awful"),
    ("영화", "배우", "plot", "음악"),
)


def texts_and_labels(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Return texts with a word that tells the label somewhere among others."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count).tolist()
    texts = []
    for label in labels:
        words = random.choice(OTHER, 4).tolist()
        words[int(random.integers(4))] = random.choice((BAD, GOOD)[label])
        texts.append(" ".join(words))
    return texts, labels


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=30))
def test_n_grams_are_those_that_another_program_finds(text: str) -> None:
    orders = extract_all_char_ngrams(f" {text.lower()} ", LONGEST, include_whitespace=True)
    expected = {gram for order in orders for gram in order}
    found = n_grams(text)
    assert len(found) == len(expected) and (np.diff(found.astype(np.int64)) > 0).all()


def test_capitals_are_small_letters() -> None:
    assert np.array_equal(n_grams("Great 영화"), n_grams("great 영화"))
    assert not np.array_equal(n_grams("Great 영화"), n_grams("great 영화관"))


def test_of_a_long_text_the_end_is_read() -> None:
    assert np.array_equal(n_grams("가나다" * 5000), n_grams(("가나다" * 5000)[-MOST_READ:]))
    assert len(n_grams("".join(map(chr, range(0x4E00, 0x4E00 + 20_000))))) < 5 * MOST_READ


def test_what_was_fitted_holds_for_texts_that_were_not_seen() -> None:
    ngrams = fitted_ngrams(*texts_and_labels(400), 2)
    texts, labels = texts_and_labels(300, seed=1)
    chances = np.exp(ngrams.logprobs(texts))
    assert chances.sum(1) == pytest.approx(np.ones(300))
    assert (chances.argmax(1) == labels).mean() > 0.98
    both = np.exp(ngrams.logprobs(["최고 최악", "영화", "최고 최고 재미있다"]))
    assert abs(both[0, 1] - 0.5) < 0.3 and abs(both[1, 1] - 0.5) < 0.3 and both[2, 1] > 0.9


def test_a_rare_label_is_expected_as_often_as_it_comes() -> None:
    """Among texts that were not seen: of all letters that tell of it, training shows some."""
    random = np.random.default_rng(0)

    def rows(count: int) -> tuple[list[str], list[int]]:
        labels = (random.random(count) < 0.15).astype(int).tolist()
        texts = []
        for label in labels:
            letters = random.integers(0xAC00, 0xAC00 + 1000, size=20).tolist()
            letters += random.integers(0x4E00, 0x4E00 + 1000, size=6 * label).tolist()
            texts.append("".join(chr(letters[place]) for place in random.permutation(len(letters))))
        return texts, labels

    ngrams = fitted_ngrams(*rows(500), 2)
    texts, labels = rows(2000)
    assert np.exp(ngrams.logprobs(texts))[:, 1].mean() == pytest.approx(np.mean(labels), rel=0.2)
    unbiased = replace(ngrams, bias=np.zeros(2, np.float32))
    assert np.exp(unbiased.logprobs(texts))[:, 1].mean() < 0.6 * np.mean(labels)


def test_probabilities_are_the_softmax_of_summed_vectors_and_the_bias() -> None:
    """In float64, from the definition."""
    known = n_grams("가나")
    random = np.random.default_rng(0)
    vectors, bias = (random.normal(size=size).astype(np.float32) for size in ((len(known) + 1, 3), (3,)))
    for text in ("가나", "xyz", "가", "無"):
        own = [place for place, gram in enumerate(known.tolist()) if gram in n_grams(text).tolist()]
        logits = vectors[own or [len(known)]].astype(np.float64).sum(axis=0) / np.sqrt(len(own) or 1)
        logits += bias
        expected = np.exp(logits) / np.exp(logits).sum()
        assert np.exp(Ngrams(known, vectors, bias).logprobs([text])[0]) == pytest.approx(expected)


def test_learning_is_adagrad_on_the_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own derivatives and its AdaGrad, batch by batch."""
    monkeypatch.setattr(ngram_fitting, "EPOCHS", 2)
    texts, labels = texts_and_labels(70)
    shares = np.linspace(0.5, 2.0, 70, dtype=np.float32)
    grams = [n_grams(text) for text in texts]
    found = ngram_fitting._learned(grams, np.array(labels), 2, shares)
    vectors = torch.zeros(found.vectors.shape, dtype=torch.float64, requires_grad=True)
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(70) for _ in range(2)])
    steps = -(-len(order) // ngram_fitting.ROWS)
    adagrad = torch.optim.Adagrad([vectors], lr=ngram_fitting.RATE)
    for step in range(steps):
        rows = order[step * ngram_fitting.ROWS : (step + 1) * ngram_fitting.ROWS].tolist()
        places = [found.places(grams[row]) for row in rows]
        logits = torch.stack([vectors[own].sum(dim=0) / len(own) ** 0.5 for own in places])
        losses = F.cross_entropy(logits, torch.tensor([labels[row] for row in rows]), reduction="none")
        adagrad.param_groups[0]["lr"] = ngram_fitting.RATE * (1 - step / steps)
        adagrad.zero_grad()
        (losses * torch.from_numpy(shares[rows])).mean().backward()  # type: ignore[no-untyped-call]
        adagrad.step()
    np.testing.assert_allclose(found.vectors, vectors.detach().numpy(), rtol=1e-3, atol=1e-4)


@given(seed=st.integers(0, 1000), count=st.integers(2, 5), rows=st.integers(0, 30))
def test_no_other_bias_costs_less(seed: int, count: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, count)) * 3
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    truth, shares = random.integers(0, count, rows), random.random(rows).astype(np.float32)
    bias = torch.tensor(ngram_fitting._bias(logprobs, truth, shares), dtype=torch.float64, requires_grad=True)
    losses = F.cross_entropy(torch.from_numpy(logprobs) + bias, torch.from_numpy(truth), reduction="none")
    cost = (losses * torch.from_numpy(shares)).sum() + bias.square().sum() / 2
    (gradient,) = torch.autograd.grad(cost, bias)
    assert gradient.abs().max() < 1e-4


def test_the_same_examples_make_the_same_ngrams() -> None:
    first, second = (fitted_ngrams(*texts_and_labels(80), 2) for _ in range(2))
    assert np.array_equal(first.known, second.known) and np.array_equal(first.vectors, second.vectors)


def test_a_text_counts_by_its_weight() -> None:
    texts, labels = ["가 나"] * 8, [0, 1] * 4
    chances = np.exp(fitted_ngrams(texts, labels, 2, weights=[3.0, 1.0] * 4).logprobs(["가 나"])[0])
    assert chances[0] == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("texts", [["x"], ["", ""], ["가", "나"]])
def test_a_text_of_which_nothing_is_known_has_its_chances(texts: list[str]) -> None:
    """Even where no n-gram is in two texts."""
    ngrams = fitted_ngrams(texts, [0] * len(texts), 3)
    chances = np.exp(ngrams.logprobs(["", "無", "가나다"]))
    assert chances.shape == (3, 3) and chances.sum(1) == pytest.approx(np.ones(3))


def test_so_many_labels_leave_room_for_so_many_ngrams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_fitting, "MOST_WEIGHTS", 60)
    ngrams = fitted_ngrams(*texts_and_labels(200), 2)
    assert 0 < len(ngrams.known) <= 30


def test_they_come_back_from_a_folder_as_they_were(tmp_path: Path) -> None:
    ngrams = fitted_ngrams(*texts_and_labels(80), 2)
    write_ngrams(tmp_path, ngrams)
    again = read_ngrams(tmp_path)
    assert np.array_equal(again.known, ngrams.known) and np.array_equal(again.vectors, ngrams.vectors)
    assert np.array_equal(again.bias, ngrams.bias)


@pytest.mark.parametrize(
    "hashes", [[[1.0, -1.0], [0.0, 0.0]], [[1e9, 1.0], [0.0, 0.0]], [[1.0], [2.0]], None]
)
def test_what_are_no_ngrams_is_refused(tmp_path: Path, hashes: list[list[float]] | None) -> None:
    from safetensors.numpy import save_file

    arrays = {"vectors": np.zeros((3, 2), np.float32)}
    if hashes is not None:
        arrays["hashes"] = np.array(hashes, np.float32)
    save_file(arrays, tmp_path / NGRAMS)
    with pytest.raises(ModelError) as caught:
        read_ngrams(tmp_path)
    assert NGRAMS in caught.value.where


def test_evidence_counts_as_much_as_it_is_worth() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 3000)
    logits = np.stack([random.normal(size=3000) for _ in range(2)], axis=1)
    signal = np.eye(2)[truth]
    weak, strong = logits * 0.5 + signal, random.normal(size=(3000, 2)) + 3 * signal
    count = fit_ngrams(weak, strong, truth)
    joined = ((weak + count * strong).argmax(1) == truth).mean()
    assert 0.3 < count < 3 and joined > max((part.argmax(1) == truth).mean() for part in (weak, strong))
    assert fit_ngrams(strong, random.normal(size=(3000, 2)), truth) < 0.15
