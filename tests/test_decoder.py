"""Generation: against Hugging Face, against itself, and at its stop rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from gencli.decoding.cpu_engine import CpuEngine
from gencli.decoding.decoder import Engine, Slide, Token, _StopStrings, generate, log_softmax
from gencli.decoding.engines import open_engine
from gencli.decoding.prompts import prompt_ids
from gencli.decoding.sampler import Sampling
from gencli.decoding.torch_engine import TorchEngine
from gencli.errors import UsageError
from gencli.model.folder import open_model
from gencli.model.gpt import GPT
from gencli.text.tokenizer import FIRST_BYTE_ID, Tokenizer

GREEDY = Sampling(temperature=0.0)


def engines(folder: Path) -> dict[str, Engine]:
    opened = open_model(folder)
    weights = opened.weights()
    return {"torch": TorchEngine(GPT(opened.shape).load(weights)), "cpu": CpuEngine(opened.shape, weights)}


@pytest.fixture(params=["torch", "cpu"])
def engine(request: pytest.FixtureRequest, model_folder: Path) -> Engine:
    return engines(model_folder)[request.param]


class Scripted:
    """An engine that wants the given ids one after the other, in every row."""

    name, context, vocabulary, threads = "scripted", 64, 0, 1

    def __init__(self, ids: Sequence[int], vocabulary: int) -> None:
        self.ids, self.vocabulary, self.at, self.rows = list(ids), vocabulary, 0, 0

    def _logits(self) -> NDArray[np.float32]:
        logits = np.zeros((self.rows, self.vocabulary), dtype=np.float32)
        logits[:, self.ids[min(self.at, len(self.ids) - 1)]] = 9.0
        self.at += 1
        return logits

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> NDArray[np.float32]:
        self.rows = len(prompts) * copies
        return self._logits()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._logits()

    def extend(self, tokens: Sequence[int], *, after: int) -> NDArray[np.float32]:
        return self._logits()

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = len(rows)

    def vectors(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        raise AssertionError


def texts(events: Sequence[Token | Slide], rows: int) -> list[str]:
    joined = [""] * rows
    for event in events:
        if isinstance(event, Token):
            joined[event.row] += event.text
    return joined


def test_greedy_text_is_that_of_hugging_face(
    model_folder: Path, tokenizer: Tokenizer, engine: Engine
) -> None:
    peer = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    peer_tokenizer = AutoTokenizer.from_pretrained(model_folder)
    control = sorted(tokenizer.control_ids - {tokenizer.eos})
    for prompt in ("강 그리고", "The river", ""):
        inputs = peer_tokenizer(prompt, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == prompt_ids(tokenizer, prompt, chat=False)
        expected = peer.generate(
            **{k: v for k, v in inputs.items() if k != "token_type_ids"},
            do_sample=False, max_new_tokens=24, suppress_tokens=control,
        )[0, inputs["input_ids"].shape[1] :]  # fmt: skip
        ours = list(
            generate(
                engine,
                _free(tokenizer),
                [inputs["input_ids"][0].tolist()],
                sampling=GREEDY,
                seed=0,
                max_new_tokens=24,
            )
        )
        assert [event.id for event in ours if isinstance(event, Token)] == expected.tolist()


class _Free:
    """The tokenizer with all bytes legal everywhere, as Hugging Face decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.piece_bytes = tuple(
            b"x" if tokenizer.is_byte(i) else b for i, b in enumerate(tokenizer.piece_bytes)
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)


def _free(tokenizer: Tokenizer) -> Tokenizer:
    return _Free(tokenizer)  # type: ignore[return-value]


def test_engines_agree(model_folder: Path, tokenizer: Tokenizer) -> None:
    written = {
        name: list(
            generate(engine, tokenizer, [[1, 300, 301], [1, 305]], sampling=GREEDY, seed=0, max_new_tokens=30)
        )
        for name, engine in engines(model_folder).items()
    }
    assert written["torch"] == written["cpu"]


def test_a_row_is_the_same_in_any_company(tokenizer: Tokenizer, engine: Engine) -> None:
    prompts = [[1, 300], [1, 310, 311, 312, 313], [1]]
    together = texts(list(write(engine, tokenizer, prompts)), 3)
    for number, prompt in enumerate(prompts):
        if number == 0:
            assert texts(list(write(engine, tokenizer, [prompt])), 1)[0] == together[0]
    two, four = (
        texts(list(write(engine, tokenizer, [[1, 300]], copies=copies)), copies) for copies in (2, 4)
    )
    assert two == four[:2] and len(set(four)) > 1


def write(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    copies: int = 1,
    seed: int = 5,
    tokens: int = 20,
) -> Sequence[Token | Slide]:
    return list(
        generate(
            engine, tokenizer, prompts, sampling=Sampling(), seed=seed, max_new_tokens=tokens, copies=copies
        )
    )


def test_same_seed_same_text(tokenizer: Tokenizer, engine: Engine) -> None:
    first, again, other = (write(engine, tokenizer, [[1]], seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_rows_that_end_leave_and_the_others_go_on(tokenizer: Tokenizer, engine: Engine) -> None:
    events = write(engine, tokenizer, [[1, 300]], copies=6, tokens=40)
    ends = [event.row for event in events if isinstance(event, Token) and event.finish]
    assert sorted(ends) == list(range(6))
    alone = texts(write(engine, tokenizer, [[1, 300]], copies=6, tokens=40), 6)
    assert alone == texts(events, 6)


def test_text_beyond_the_context_slides_on(tokenizer: Tokenizer, engine: Engine) -> None:
    events = list(
        generate(engine, _without_end(tokenizer), [[1, 300]], sampling=GREEDY, seed=0, max_new_tokens=150)
    )
    slides = [event for event in events if isinstance(event, Slide)]
    assert len([event for event in events if isinstance(event, Token)]) == 150
    assert len(slides) == 3 and all(slide.dropped == engine.context + 1 - 33 for slide in slides)
    long = [1, *range(300, 390)]
    events = list(generate(engine, tokenizer, [long], sampling=GREEDY, seed=0, max_new_tokens=3))
    assert events[0] == Slide(0, len(long) - 33)


def test_the_first_tokens_are_kept_as_many_as_asked(tokenizer: Tokenizer, engine: Engine) -> None:
    """After each slide the text is what a new run writes after the kept tokens and the recent half."""
    endless, prompt, keep = _without_end(tokenizer), [1, *range(300, 320)], 17
    endless.piece_bytes = _free(tokenizer).piece_bytes  # any id may come at any time

    def written(ids: list[int], tokens: int, kept: int) -> list[Token | Slide]:
        return list(
            generate(engine, endless, [ids], sampling=GREEDY, seed=0, max_new_tokens=tokens, keep=kept)
        )

    events = written(prompt, 90, keep)
    ids = list(prompt)
    for place, event in enumerate(events):
        if isinstance(event, Slide):
            rest = [later for later in events[place:] if isinstance(later, Token)]
            assert event.dropped == len(ids) - keep - engine.context // 2
            ids = ids[:keep] + ids[-(engine.context // 2) :]
            assert [one.id for one in written(ids, 9, keep) if isinstance(one, Token)] == [
                one.id for one in rest[:9]
            ]
        else:
            ids.append(event.id)
    assert len([event for event in events if isinstance(event, Slide)]) > 1
    assert written(prompt, 60, 0)[60 - 20 :] != written(prompt, 60, 1)[60 - 20 :]
    assert written(prompt, 2, 31)
    with pytest.raises(UsageError, match="--keep 32 leaves no room in a context of 64"):
        written(prompt, 2, 32)


def test_a_row_that_is_extended_is_one_that_was_read_whole(engine: Engine) -> None:
    ids = [1, *range(300, 360)]
    whole = engine.start([ids], slots=64)
    for first, after, more in (
        (ids, 40, ids[40:]),
        ([*ids[:30], 5, 6, 7], 30, ids[30:]),
        (ids, 60, ids[60:]),
    ):
        engine.start([first], slots=64)
        np.testing.assert_allclose(engine.extend(more, after=after), whole, rtol=1e-4, atol=1e-4)
    engine.start([ids[:20]], slots=64)
    for one in (5, 6):
        engine.step(np.array([one]))
    engine.extend(ids[20:30], after=20)
    stepped = engine.step(np.array([ids[30]]))
    np.testing.assert_allclose(stepped, engine.start([ids[:31]], slots=64), rtol=1e-4, atol=1e-4)


class _Endless(_Free):
    eos = -1


def _without_end(tokenizer: Tokenizer) -> Tokenizer:
    endless = _Endless(tokenizer)
    endless.piece_bytes = tokenizer.piece_bytes
    endless.control_ids = frozenset(tokenizer.control_ids)  # type: ignore[attr-defined]
    return endless  # type: ignore[return-value]


def test_control_pieces_are_never_drawn(tokenizer: Tokenizer) -> None:
    for wanted in tokenizer.control_ids - {tokenizer.eos}:
        engine = Scripted([wanted], tokenizer.vocabulary)
        events = list(
            generate(engine, tokenizer, [[1]], sampling=Sampling(top_k=0), seed=0, max_new_tokens=20)
        )
        assert wanted not in [event.id for event in events if isinstance(event, Token)]


def test_end_of_text_stops(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("강 산"), tokenizer.eos, 300]
    events = list(
        generate(
            Scripted(ids, tokenizer.vocabulary), tokenizer, [[1]], sampling=GREEDY, seed=0, max_new_tokens=50
        )
    )
    assert texts(events, 1) == ["강 산"]
    assert isinstance(events[-1], Token) and events[-1].finish == "stop"


@pytest.mark.parametrize("stop", ["바다", "sea is", "다 h", "."])
def test_stop_strings_end_the_text_before_them(tokenizer: Tokenizer, stop: str) -> None:
    text = "강 바다 hill. The sea is here."
    engine = Scripted(tokenizer.encode(text), tokenizer.vocabulary)
    events = list(
        generate(engine, tokenizer, [[1]], sampling=GREEDY, seed=0, max_new_tokens=60, stop=["없음", stop])
    )
    assert texts(events, 1) == [text.split(stop, maxsplit=1)[0]]
    assert isinstance(events[-1], Token) and events[-1].finish == "stop"


@settings(deadline=None, max_examples=200)
@given(
    parts=st.lists(st.text(alphabet="ab가", max_size=4), max_size=12),
    stops=st.lists(st.text(alphabet="ab가", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_in_any_pieces(parts: list[str], stops: list[str]) -> None:
    held = _StopStrings(stops)
    given_out = ""
    for part in parts:
        given_out += held.add(part)
        if held.hit:
            break
    given_out += held.flush()
    whole = "".join(parts)
    found = [whole.find(stop) for stop in stops if stop in whole]
    assert held.hit == bool(found)
    assert whole.startswith(given_out)
    assert not any(stop in given_out for stop in stops)
    if not found:
        assert given_out == whole


def test_text_in_bytes_streams_whole_characters_only(tokenizer: Tokenizer) -> None:
    text = "힣😀뷁"
    ids = [FIRST_BYTE_ID + byte for byte in text.encode()]
    engine = Scripted([*ids, tokenizer.eos], tokenizer.vocabulary)
    events = list(generate(engine, tokenizer, [[1]], sampling=GREEDY, seed=0, max_new_tokens=50))
    shown = [event.text for event in events if isinstance(event, Token) and event.text]
    assert shown == ["힣", "😀", "뷁"]


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 9])
def test_no_budget_ends_inside_a_character(tokenizer: Tokenizer, budget: int) -> None:
    ids = [FIRST_BYTE_ID + byte for byte in "가😀가".encode()]
    engine = Scripted(ids, tokenizer.vocabulary)
    events = list(
        generate(
            engine,
            tokenizer,
            [[1]],
            sampling=Sampling(temperature=3.0, top_k=0),
            seed=1,
            max_new_tokens=budget,
        )
    )
    assert "\ufffd" not in texts(events, 1)[0]
    assert len(events) <= budget


def test_hot_sampling_never_breaks_a_character(tokenizer: Tokenizer, engine: Engine) -> None:
    hot = Sampling(temperature=50.0, top_k=0)
    events = list(generate(engine, tokenizer, [[1]], sampling=hot, seed=3, max_new_tokens=60, copies=4))
    assert not any("\ufffd" in text for text in texts(events, 4))


def test_the_cpu_engine_runs_on_the_cpu_only(model_folder: Path) -> None:
    with pytest.raises(UsageError, match="cuda"):
        open_engine(open_model(model_folder), engine="cpu", device="cuda")
    assert open_engine(open_model(model_folder)).name == ("cpu" if not torch.cuda.is_available() else "torch")


FILTERED = [
    Sampling(temperature=0.0, repetition_penalty=1.7),
    Sampling(temperature=0.0, repetition_penalty=1.7, penalty_window=4),
    Sampling(temperature=0.0, presence_penalty=1.5, frequency_penalty=0.7),
    Sampling(temperature=0.0, no_repeat_ngram=2),
    Sampling(temperature=0.0, logit_bias=(((300,), 4.0), ((300, 301), 90.0))),
]


@pytest.mark.parametrize("sampling", FILTERED, ids=str)
def test_engines_agree_with_every_filter(
    model_folder: Path, tokenizer: Tokenizer, sampling: Sampling
) -> None:
    def written(engine: Engine, how: Sampling, ban: str = "") -> Sequence[Token | Slide]:
        prompts, bans = [[1, 300, 301], [1, 305]], [ban] if ban else []
        return list(generate(engine, tokenizer, prompts, sampling=how, seed=0, max_new_tokens=30, bans=bans))

    ours = engines(model_folder)
    found = written(ours["torch"], sampling)
    assert found == written(ours["cpu"], sampling) != written(ours["cpu"], GREEDY)
    ban = next(text for text in texts(found, 2)[0].split() if len(text) > 1)
    banned = written(ours["torch"], sampling, ban)
    assert banned == written(ours["cpu"], sampling, ban) != found


def test_no_end_before_the_least_length(tokenizer: Tokenizer) -> None:
    engine = Scripted([tokenizer.eos], tokenizer.vocabulary)
    for least in (0, 1, 5):
        events = list(
            generate(
                engine, tokenizer, [[1]], sampling=GREEDY, seed=0, max_new_tokens=20, min_new_tokens=least
            )
        )
        assert len(events) == least + 1
        last = events[-1]
        assert isinstance(last, Token) and last.id == tokenizer.eos


@settings(deadline=None, max_examples=60)
@given(
    bans=st.lists(st.text(alphabet="ab가각 ", min_size=1, max_size=4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_a_banned_text_never_appears(tokenizer: Tokenizer, bans: list[str], seed: int) -> None:
    """The engine wants pieces and single bytes of the banned texts all the time."""

    class Eager(Scripted):
        def _logits(self) -> NDArray[np.float32]:
            logits = np.zeros((self.rows, self.vocabulary), dtype=np.float32)
            wanted = [FIRST_BYTE_ID + byte for byte in "ab가각 ".encode()]
            logits[:, wanted + tokenizer.encode("".join(bans))] = 9.0
            return logits

    eager = Eager([], tokenizer.vocabulary)
    hot = Sampling(temperature=1.0, top_k=0)
    free, kept = (
        texts(
            list(generate(eager, tokenizer, [[1]], sampling=hot, seed=seed, max_new_tokens=60, bans=banned)),
            1,
        )[0]
        for banned in ([], bans)
    )
    assert free and not any(ban in kept for ban in bans) and "\ufffd" not in kept


def test_log_probabilities_are_the_models_own(tokenizer: Tokenizer, engine: Engine) -> None:
    prompt = [1, 300, 301]
    hot = Sampling(temperature=3.0, top_k=5, repetition_penalty=2.0)
    events = list(generate(engine, tokenizer, [prompt], sampling=hot, seed=0, max_new_tokens=9, logprobs=4))
    ids = list(prompt)
    for event in events:
        assert isinstance(event, Token)
        own = log_softmax(engine.start([ids], slots=64)[0])
        assert event.logprob == pytest.approx(own[event.id], abs=1e-3)
        assert [value for _, value in event.alternatives] == pytest.approx(np.sort(own)[:-5:-1], abs=1e-3)
        assert [own[one] for one, _ in event.alternatives] == pytest.approx(np.sort(own)[:-5:-1], abs=1e-3)
        ids.append(event.id)
    plain = list(generate(engine, tokenizer, [prompt], sampling=hot, seed=0, max_new_tokens=9))
    assert [e.id for e in plain if isinstance(e, Token)] == ids[3:]
    assert all(isinstance(e, Token) and e.logprob is None for e in plain)


def test_a_random_stream_belongs_to_the_prompts_number(tokenizer: Tokenizer, engine: Engine) -> None:
    def written(prompts: list[list[int]], numbers: list[int], copies: int) -> list[str]:
        events = generate(
            engine,
            tokenizer,
            prompts,
            sampling=Sampling(),
            seed=5,
            max_new_tokens=20,
            copies=copies,
            numbers=numbers,
        )
        return texts(list(events), copies * len(prompts))

    together = written([[1, 300], [1, 310, 311], [1, 300]], [0, 1, 2], 2)
    assert written([[1, 300]], [2], 3)[:2] == together[4:]
    assert written([[1, 310, 311], [1, 300]], [1, 0], 1) == [together[2], together[0]]
    assert len(set(together)) == 6
