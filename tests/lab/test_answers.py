"""The distribution of whole answers of the embedded model: against every answer, against draws, and at its limits."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import llmlab
from llmlab.engine.search import Search
from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results.answers import Answers
from tests.engine.test_recompilation import compiled

ANIMAL, STORY, COIN = "Name an animal.", "Tell me a story.", "Flip a coin."
#: Two tokens that the embedded model may well begin with, and then not.
PAIR = [1302, 1066]
TRUTH = Path(__file__).resolve().parents[2] / "data/demo/truth.jsonl"
#: Two-sided normal quantile of one in a thousand.
Z = 3.29


@pytest.fixture
def passes(monkeypatch):
    """How many steps of the model a search takes."""
    made = []
    advance = Search.advance

    def counted(self, parents, tokens):
        made.append(len(parents))
        return advance(self, parents, tokens)

    monkeypatch.setattr(Search, "advance", counted)
    return made


def every(lab: Lab, *, length: int, temperature: float = 1.0) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of two tokens, from one pass of the model over each of them, in float64."""
    prompt = lab.backend.render(lab.request(ANIMAL))
    found = {}
    for path in itertools.product(PAIR, repeat=length):
        logits = np.concatenate(list(lab.backend.logits(prompt, np.array(path, np.int32)))).astype(np.float64)
        left = logits[:, PAIR] / temperature
        logprobs = left - np.logaddexp.reduce(left, axis=1, keepdims=True)
        found[path] = math.exp(sum(float(logprobs[at, PAIR.index(token)]) for at, token in enumerate(path)))
    assert math.isclose(sum(found.values()), 1.0, rel_tol=1e-9)
    return found


def ids_of(found: Answers) -> list[tuple[int, ...]]:
    return [found.data.explored.ids(at) for at in range(len(found.data.explored.text))]


def test_every_answer_of_two_tokens(demo: Lab) -> None:
    found = demo.answers(ANIMAL, max_tokens=5, allowed_token_ids=PAIR, temperature=[0.7, 1.0, 1.4], mass=1.0)
    assert demo.last_answers is found and len(ids_of(found)) == 32
    for temperature, weighed in zip((0.7, 1.0, 1.4), found.data.weighed, strict=False):
        exact = every(demo, length=5, temperature=temperature)
        assert dict(zip(ids_of(found), weighed.probability, strict=True)) == pytest.approx(exact, abs=1e-5)
        assert weighed.left == pytest.approx(0, abs=1e-12)
    assert set(found.frame()["finish_reason"]) == {"length"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.6, "repetition_penalty": 1.3, "logit_bias": {1302: -3.0}},
        {"top_p": 0.9, "min_tokens": 3, "frequency_penalty": 0.5},
        {"stop": ["o"], "temperature": 1.2},
    ],
    ids=["raw", "penalties", "truncated", "stop"],
)
def test_log_probabilities_are_those_of_the_scores(demo: Lab, fields) -> None:
    found = demo.answers(ANIMAL, max_tokens=6, mass=0.8, max_passes=20, **fields)
    some = np.argsort(-found.data.weighed[0].logprob)[:40]
    ids = [list(ids_of(found)[at]) for at in some]
    scored = demo.score(ANIMAL, ids, **{name: value for name, value in fields.items() if name != "stop"})
    sums = [float(choice.tokens.sampling_logprob.sum(dtype=np.float64)) for choice in scored.choices]
    np.testing.assert_allclose(found.data.weighed[0].logprob[some], sums, atol=3e-4)
    if "stop" not in fields:
        assert [found.data.explored.text[at] for at in some] == scored.texts
    assert found.explored + found.unexplored == pytest.approx(1, abs=1e-9)


def test_a_stop_sequence_ends_an_answer(demo: Lab) -> None:
    free = demo.answers(ANIMAL, max_tokens=8, mass=0.9)
    stopped = demo.answers(ANIMAL, max_tokens=8, mass=0.9, stop="o")
    for frame in (free.frame(), stopped.frame()):
        assert not frame.duplicated(["text", "finish_reason"]).any()
    texts = stopped.frame()["text"]
    assert all("o" not in text[:-1] for text in texts) and {"Do", "Cat"} <= set(texts)
    low, high = free.probability("^Do")
    own = stopped.probability({"Do"})
    assert own.low <= high and low <= own.high
    without = demo.answers(ANIMAL, max_tokens=8, mass=0.9, stop="o", include_stop=False)
    assert "D" in set(without.frame()["text"])


def test_a_tool_call_ends_an_answer_and_is_its_text(demo: Lab) -> None:
    parameters = {"type": "object", "properties": {"c": {"enum": ["Paris", "Rome"]}}, "required": ["c"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    fields = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 60}
    found = demo.answers("What is the weather in Paris?", mass=0.9, **fields)
    best = found.frame().iloc[0]
    greedy = demo.chat("What is the weather in Paris?", temperature=0, **fields)
    call = greedy.choices[0].tool_calls[0]
    assert best.finish_reason == "tool_calls" and best.text == f"f({call.arguments})"
    assert found.probability("Paris", finish_reason="tool_calls").low > 0.1
    assert found.begins("f(").low == pytest.approx(found.explored, abs=1e-3) and found.begins("g").low == 0


def test_settings_cost_no_pass(demo: Lab, passes) -> None:
    """Fifty settings take the passes of the hardest, and say what a search for each says."""
    grid = {"temperature": np.round(np.linspace(0.2, 1.0, 10), 2), "top_p": [0.5, 0.8, 0.9, 0.95, 1.0]}
    alone = demo.answers(ANIMAL)
    assert alone.passes == len(passes)
    passes.clear()
    found = demo.answers(ANIMAL, **grid)
    assert len(found.summary_frame()) == 50
    assert found.passes == len(passes) == alone.passes
    assert found.summary_frame()["unexplored"].max() <= 0.01
    passes.clear()
    later = alone.at(**grid)
    assert later.passes == alone.passes and not passes
    pd.testing.assert_frame_equal(later.summary_frame(), found.summary_frame(), atol=1e-9, rtol=1e-6)
    for point in ({"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.64, "top_p": 0.95}):
        own, one = demo.answers(ANIMAL, **point), alone.at(**point)
        low, high = own.probability("^Cat$")
        assert one.probability("^Cat$").low <= high + 1e-6 and low <= one.probability("^Cat$").high + 1e-6
        assert one.probability().low == pytest.approx(1, abs=0.011)
    for order in ("llama.cpp", "vllm"):
        assert demo.answers(COIN, order=order, top_p=0.9, temperature=0.8).explored > 0.99


def test_mass_within_few_passes(demo: Lab) -> None:
    """0.99 of the answers to each of the 36 known questions within 40 passes of 8 rows, and to most within 6."""
    first = {one["name"]: one for one in map(json.loads, TRUTH.read_text("utf-8").splitlines())}
    assert len(first) == 36
    taken = {}
    for name, one in itertools.islice(first.items(), 0, None, 3):
        found = demo.answers(one["messages"])
        assert found.stopped == "mass" and found.explored >= 0.99
        taken[name] = found.passes
    assert max(taken.values()) <= 40 and sum(n <= 6 for n in taken.values()) >= len(taken) - 2, taken


def holds(lab: Lab, messages, *, cells: int, **fields) -> list[bool]:
    """Whether what is drawn lies within the bounds of three events, widened by standard errors of the draws.

    There are 128 draws in each cell of a sweep, whose temperatures differ by less than a float32 shows.
    """
    found = lab.answers(messages, **fields)
    temperature = fields.pop("temperature", 1.0)
    same = [temperature * (1 - 1e-10 * at) for at in range(cells)]
    drawn = lab.sweep(messages, n=128, seed=1, temperature=same, independent=True, **fields)
    texts = drawn.frame()["text"].tolist()
    best = found.frame()["text"].iloc[0]
    events = {
        (best,): lambda text: text == best,
        "^.{5}": lambda text: len(text) > 4 and "\n" not in text[:5],
        "[aeiou]$": lambda text: text[-1:] in tuple("aeiou"),
    }
    kept = []
    for event, test in events.items():
        share = float(np.mean([test(text) for text in texts]))
        low, high = found.probability(event)
        middle = min(max(share, low), high)
        error = math.sqrt(max(middle * (1 - middle), 1 / len(texts)) / len(texts))
        kept.append(low - Z * error <= share <= high + Z * error)
    return kept


def test_the_bounds_hold_what_is_drawn(demo: Lab) -> None:
    for messages, fields in ((COIN, {"temperature": 1.3}), ("Roll two dice.", {"top_p": 0.8})):
        assert all(holds(demo, messages, cells=4, max_tokens=16, **fields)), messages


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_bounds_hold_twenty_thousand_draws() -> None:
    """In at least 99 of 100 events: three of each of the 36 known questions, of 20,096 draws."""
    first = {one["name"]: one for one in map(json.loads, TRUTH.read_text("utf-8").splitlines())}
    lab = llmlab.load("demo", quiet=True)
    kept = [one for each in first.values() for one in holds(lab, each["messages"], cells=157, max_tokens=32)]
    lab.close()
    print(f"{sum(kept)} of {len(kept)} events")
    assert len(kept) == 108 and sum(kept) >= 0.99 * len(kept), kept


def test_events(demo: Lab) -> None:
    found = demo.answers(COIN)
    heads = found.probability({"Heads"})
    assert heads == found.probability("^Heads$") == found.probability(lambda text: text == "Heads")
    assert heads.low == pytest.approx(0.52318, abs=1e-4) and heads.high - heads.low == pytest.approx(found.unexplored)
    assert found.probability().low == pytest.approx(found.explored)
    assert found.probability(finish_reason="length").low == 0
    frame = found.probability_frame({"heads": {"Heads"}, "tails": "^Tails$"})
    assert frame["class"].tolist() == ["heads", "tails"] and frame["low"][0] == heads.low
    by_pass = found.bounds_frame({"heads": {"Heads"}})
    assert by_pass["passes"].tolist() == list(range(1, found.passes + 1))
    assert (np.diff(by_pass["low"]) >= 0).all() and (np.diff(by_pass["high"]) <= 1e-12).all()
    assert tuple(by_pass.iloc[-1][["low", "high"]]) == pytest.approx(heads)


def test_how_answers_begin_is_known_before_they_end(demo: Lab) -> None:
    """Closer bounds than an event of whole answers has, which hold what a longer search finds."""
    short = demo.answers(STORY, max_tokens=8, max_passes=2)
    long = demo.answers(STORY, max_tokens=8, max_passes=20)
    for text in ("Once upon", "Long ago"):
        mine, later = short.begins(text), long.begins(text)
        assert mine.low <= later.low + 1e-9 and later.high <= mine.high + 1e-9
        whole = long.probability(f"^{text}")
        assert whole.low <= later.low + 1e-9 and later.high <= whole.high + 1e-9
    assert short.begins("Once upon").high - short.begins("Once upon").low < 0.02 < short.unexplored
    classes = {"once": "Once", "other": ["Long", "In"]}
    frame = short.begins_frame(classes)
    assert frame["class"].tolist() == ["once", "other"]
    assert tuple(frame.iloc[0][["low", "high"]]) == pytest.approx(short.begins("Once"))
    at = short.at(temperature=[0.5, 1.0]).begins_frame(classes)
    assert at["temperature"].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert tuple(at.iloc[2][["low", "high"]]) == pytest.approx(short.begins("Once"), abs=1e-9)
    # Next tokens that are whole answers: exact from the first pass on.
    coin = demo.answers(COIN, max_passes=1)
    assert coin.begins("Heads").high - coin.begins("Heads").low < 0.002
    assert demo.answers(COIN).begins("Heads").low == pytest.approx(coin.begins("Heads").low, abs=2e-3)


def test_limits_are_honest(demo: Lab) -> None:
    found = demo.answers(STORY, max_tokens=20, max_passes=3)
    assert found.stopped == "passes" and found.passes == 3 and found.unexplored > 0.5
    assert "stopped at max_passes" in repr(found)
    found = demo.answers(STORY, max_tokens=20, max_rows=40)
    assert found.stopped == "rows" and found.rows == 40
    assert found.probability("princess").high == pytest.approx(found.unexplored + found.probability("princess").low)


def test_an_interrupt_keeps_what_was_found(demo: Lab, monkeypatch) -> None:
    advance, made = Search.advance, []

    def broken(self, parents, tokens):
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return advance(self, parents, tokens)

    monkeypatch.setattr(Search, "advance", broken)
    with pytest.raises(KeyboardInterrupt) as error:
        demo.answers(ANIMAL)
    assert "lab.last_answers" in "".join(error.value.__notes__)
    found = demo.last_answers
    assert found is not None and found.stopped == "interrupted" and found.passes == 3
    assert 0.5 < found.explored < 0.99 and found.explored + found.unexplored == pytest.approx(1, abs=1e-9)
    assert "interrupted" in repr(found) and found.probability("Dog").low > 0.3


def test_a_grammar_beside_the_model_alone(demo: Lab) -> None:
    """The model's own given that the answer fits, from one pass over each answer that fits."""
    choices = ["Cat", "Dog", "Dogs", "Horse"]
    found = demo.answers(ANIMAL, structured_outputs={"choice": choices}, conditional=True, mass=0.999999)
    frame = found.conditional_frame()
    free = demo.answers(ANIMAL, mass=0.99).frame().set_index("text")["probability"]
    fits = found.distance_frame().iloc[0]
    for row in frame[frame["text"].isin(["Cat", "Dog", "Horse"])].itertuples():
        assert row.free_probability == pytest.approx(free[row.text], rel=1e-3)
        share = free[row.text] / sum(free.get(text, 0.0) for text in choices)
        assert row.conditional_low - 1e-3 <= share <= row.conditional_high + 1e-3
        assert row.weight_low == pytest.approx(row.conditional_low / row.probability)
    assert fits.fits_low == pytest.approx(sum(free.get(text, 0.0) for text in choices), rel=1e-3)
    exact = abs(frame["probability"] - frame["conditional_low"]).sum() / 2
    assert fits.total_variation_low - 1e-3 <= exact <= fits.total_variation_high + 1e-3
    assert 0 <= fits.kl_low <= fits.kl_high < 0.01
    truncated = demo.answers(ANIMAL, structured_outputs={"choice": choices}, top_p=0.9, max_passes=1)
    assert truncated.distance_frame()["kl_high"][0] == math.inf or truncated.data.weighed[1].left == 0


def test_nothing_is_compiled_by_another_search(demo: Lab) -> None:
    demo.answers(ANIMAL, max_tokens=8, max_passes=6)
    demo.answers("Name a colour.", max_tokens=8, max_passes=6)
    before = len(compiled())
    demo.answers("Name a fruit.", max_tokens=8, max_passes=9)
    assert len(compiled()) == before


def test_it_can_be_read_drawn_and_pickled(demo: Lab) -> None:
    found = demo.answers(ANIMAL, max_passes=4)
    assert repr(found).splitlines()[1].split() == ["1", f"{found.frame()['probability'][0]:.5f}", "'Dog'"]
    assert "<table" in found._repr_html_() and len(found) == len(found.frame())
    copy = pickle.loads(pickle.dumps(found))
    pd.testing.assert_frame_equal(copy.frame(), found.frame())
    assert repr(copy) == repr(found)
    with pytest.raises(RequestError, match=r"no lab: ask lab\.answers again"):
        copy.at(temperature=0.5)
    several = found.at(temperature=[0.5, 1.0])
    assert "under 2 settings" in repr(several) and "<table" in several._repr_html_()
    assert several.plot_probability({"dog": "^Dog$"}).get_xlabel() == "temperature"
    assert found.plot_bounds({"dog": "^Dog$"}).get_xlabel() == "passes of the model"
    names = [label.get_text() for label in found.plot(answers=5).get_yticklabels()]
    assert names[0] == "Dog" and names[-2:] == [f"({len(found) - 5} others)", "(unexplored)"]


def test_what_is_wrong_is_named(demo: Lab) -> None:
    def refused(match: str, **fields) -> None:
        with pytest.raises(RequestError, match=match):
            demo.answers(COIN, **fields)

    refused("mass must be between 0 and 1, got 2", mass=2)
    refused("max_passes must be", max_passes=0)
    refused("rows = 9999 is more than this model computes side by side", rows=9999)
    refused("rows must be", rows=1)
    refused("n = 3 would have no effect", n=3)
    refused("seed = 3 would have no effect", seed=3)
    refused("conditional = True compares a grammar", conditional=True)
    refused("xtc_probability = 0.5: it removes tokens at random", xtc_probability=0.5)
    refused("mirostat", mirostat=2)
    refused("temperature is an empty list", temperature=[])
    refused("temperature has a value twice", temperature=[1, 1.0])
    refused("513 settings are more than 512", temperature=np.linspace(0, 2, 513))
    found = demo.answers(COIN)
    for match, call in {
        "max_tokens is no setting of the sampler": lambda: found.at(max_tokens=3),
        "is no regular expression": lambda: found.probability("("),
        "finish_reason must be one of stop": lambda: found.probability(finish_reason="end"),
        "classes is empty": lambda: found.probability_frame({}),
        "texts must be texts that are not empty": lambda: found.begins(""),
        "there are 2 settings: take one with at": lambda: found.at(temperature=[0.5, 1]).probability("a"),
        "one field is to vary, and here none does": lambda: found.plot_probability("a"),
        "the request has no grammar": lambda: found.distance_frame(),
    }.items():
        with pytest.raises(RequestError, match=match):
            call()
    one = signature(Lab.answers).parameters
    assert {"temperature", "stop", "max_tokens", "prompt"} <= set(one) and not {"seed", "n", "stream"} & set(one)
