"""The order of an epoch: every number once, another order in every epoch, and no pattern in it."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.training.shuffle import Shuffle


def order(length: int, *, seed: int = 0, epoch: int = 0) -> list[int]:
    shuffle = Shuffle(length, seed=seed, epoch=epoch)
    return [shuffle.at(place) for place in range(length)]


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 1500), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_every_number_stands_at_one_place(length: int, seed: int, epoch: int) -> None:
    found = order(length, seed=seed, epoch=epoch)
    assert sorted(found) == list(range(length))
    assert found == order(length, seed=seed, epoch=epoch)


@given(length=st.integers(10**9, 10**15), place=st.integers(0, 10**9 - 1))
def test_any_length_takes_no_memory(length: int, place: int) -> None:
    assert 0 <= Shuffle(length, seed=1, epoch=2).at(place) < length


@given(length=st.integers(100, 2000), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_epochs_and_seeds_have_other_orders(length: int, seed: int, epoch: int) -> None:
    found = order(length, seed=seed, epoch=epoch)
    for other in (order(length, seed=seed, epoch=epoch + 1), order(length, seed=seed + 1, epoch=epoch)):
        assert sum(a == b for a, b in zip(found, other, strict=True)) < 12  # one on average


def test_a_few_numbers_come_in_all_orders_alike() -> None:
    counts = Counter(tuple(order(4, epoch=epoch)) for epoch in range(4800))
    assert len(counts) == 24
    assert all(abs(counts[way] - 200) < 80 for way in itertools.permutations(range(4)))


def test_neighbours_in_the_order_are_not_related() -> None:
    found = np.array(order(5000))
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(found, np.arange(5000))[0, 1]) < 0.05
    assert np.count_nonzero(np.diff(found) == 1) < 8


def test_what_goes_with_an_order_is_spread_evenly() -> None:
    counts = Counter(Shuffle(9, seed=3, epoch=epoch).below(8) for epoch in range(1600))
    assert set(counts) == set(range(8))
    assert all(140 < count < 260 for count in counts.values())
