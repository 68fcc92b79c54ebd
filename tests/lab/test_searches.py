"""Searches over the answers of the embedded model: against every answer, against scores, and what they refuse."""

from __future__ import annotations

import gc
import itertools
import math
import pickle
from collections import Counter
from inspect import signature

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llmlab.errors import RequestError
from llmlab.lab.lab import Lab
from llmlab.results.search_result import SearchResult
from llmlab.search.model_space import ModelSpace
from tests.backends.endpoint import Endpoint, entry, spoken
from tests.engine.test_recompilation import compiled

ANIMAL, STORY = "Name an animal.", "Tell me a story."
#: Two tokens that the embedded model may well begin with, and then not.
PAIR = [1302, 1066]


def every(lab: Lab, *, tokens: list[int], length: int, temperature: float = 1.0) -> dict[tuple[int, ...], float]:
    """The log-probability of every sequence of some tokens, from one pass of the model over each of them."""
    prompt = lab.backend.render(lab.request(ANIMAL))
    found = {}
    for path in itertools.product(tokens, repeat=length):
        logits = np.concatenate(list(lab.backend.logits(prompt, np.array(path, np.int32)))).astype(np.float64)
        left = logits[:, tokens] / temperature
        logprobs = left - np.logaddexp.reduce(left, axis=1, keepdims=True)
        found[path] = sum(float(logprobs[at, tokens.index(token)]) for at, token in enumerate(path))
    assert math.isclose(sum(map(math.exp, found.values())), 1.0, rel_tol=1e-9)
    return found


def test_as_many_beams_as_answers_find_every_answer(demo: Lab) -> None:
    exact = every(demo, tokens=PAIR, length=3, temperature=0.7)
    found = demo.beam_search(ANIMAL, beams=8, max_tokens=3, allowed_token_ids=PAIR, temperature=0.7, length_penalty=0.0)
    assert [one.ids for one in found.data.found] == sorted(exact, key=lambda path: -exact[path])
    assert found.frame()["sampling_logprob"].tolist() == pytest.approx(sorted(exact.values(), reverse=True), abs=1e-4)
    assert found.frame()["score"].tolist() == pytest.approx(found.frame()["sampling_logprob"].tolist())


def test_one_beam_is_the_answer_at_temperature_zero(demo: Lab) -> None:
    greedy = demo.chat(STORY, temperature=0, max_tokens=12)
    found = demo.beam_search(STORY, beams=1, max_tokens=12, early_stopping=True)
    assert found.texts == greedy.texts
    np.testing.assert_array_equal(found[0].tokens.ids, greedy[0].tokens.ids)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.6, "repetition_penalty": 1.3, "logit_bias": {1302: -3.0}},
        {"top_p": 0.8, "min_tokens": 3, "frequency_penalty": 0.5},
        pytest.param({"typical_p": 0.9, "no_repeat_ngram_size": 2}, marks=pytest.mark.slow),
    ],
    ids=["raw", "penalties", "truncated", "library"],
)
def test_log_probabilities_are_those_of_the_scores(demo: Lab, fields) -> None:
    """Each step's distribution is the one that the sampler would draw from, after the sequence's own tokens."""
    for method, own in (
        ("beam_search", {"beams": 4}),
        ("sample_without_replacement", {"n": 4, "seed": 3}),
        ("arithmetic_sample", {"n": 5, "seed": 3}),
    ):
        found = getattr(demo, method)(ANIMAL, max_tokens=6, **own, **fields)
        assert demo.last is found.result
        tokens = found.tokens_frame()
        scored = demo.score(ANIMAL, [list(one.ids) for one in found.data.found], **fields).logprobs_frame()
        for name in ("logprob", "sampling_logprob"):
            np.testing.assert_allclose(tokens[name], scored[name], atol=2e-4)
        frame = found.frame()
        assert frame["rank"].tolist() == list(range(1, len(found) + 1))
        totals = tokens.groupby("rank")["sampling_logprob"].sum()
        assert totals.tolist() == pytest.approx(frame["sampling_logprob"].tolist())
        assert tokens.groupby("rank")["path_sampling_logprob"].last().tolist() == pytest.approx(totals.tolist())
        if not fields:
            assert frame["logprob"].tolist() == pytest.approx(frame["sampling_logprob"].tolist(), abs=1e-4)
        assert found.result.finish_reasons == frame["finish_reason"].tolist()


def test_groups_of_beams_begin_differently(demo: Lab) -> None:
    found = demo.beam_search(STORY, beams=6, groups=3, diversity_penalty=2.0, max_tokens=8)
    frame = found.frame()
    first = {group: {one.ids[0] for one, g in zip(found.data.found, frame["group"], strict=True) if g == group}
             for group in range(3)}  # fmt: skip
    assert all(len(tokens) == 1 for tokens in first.values()) and len(set.union(*first.values())) == 3
    assert sorted(frame["group"]) == [0, 0, 1, 1, 2, 2]
    assert frame["score"].is_monotonic_decreasing
    # The first group is a search of its own, and the penalties of the others are in their scores.
    alone = demo.beam_search(STORY, beams=2, max_tokens=8).frame()
    pd.testing.assert_series_equal(frame[frame["group"] == 0]["score"], alone["score"], check_index=False, rtol=1e-12)
    taken = (frame["sampling_logprob"] - frame["score"] * frame["tokens"]) / 2.0
    np.testing.assert_allclose(taken, np.round(taken), atol=1e-9)
    assert taken.min() == pytest.approx(0, abs=1e-9) and taken.max() >= 1


def test_a_grammar_holds_in_every_beam(demo: Lab) -> None:
    found = demo.beam_search(ANIMAL, beams=8, structured_outputs={"choice": ["Cat", "Dog", "Okapi"]})
    assert {"Cat", "Dog"} < set(found.texts) <= {"Cat", "Dog", "Okapi"}
    assert set(found.result.finish_reasons) == {"stop"}
    assert np.exp(found.frame()["sampling_logprob"]).sum() == pytest.approx(1, abs=0.02)


def test_samples_without_replacement_are_drawn_by_their_probabilities(demo: Lab) -> None:
    exact = every(demo, tokens=PAIR, length=2)
    seen: Counter[tuple[int, ...]] = Counter()
    fields = {"max_tokens": 2, "allowed_token_ids": PAIR}
    for seed in range(40):
        request = demo.request(ANIMAL, seed=seed, **fields)
        found = demo.sample_without_replacement(request, n=2)
        assert len({one.ids for one in found.data.found}) == 2
        seen[found.data.found[0].ids] += 1
    expected = np.array([40 * math.exp(logprob) for logprob in exact.values()])
    observed = np.array([seen[path] for path in exact])
    rare = expected < 5
    cells = [np.append(each[~rare], each[rare].sum()) for each in (observed, expected)]
    assert stats.chisquare(*cells).pvalue > 1e-3
    # All answers and no more; each is certain to be among them.
    whole = demo.sample_without_replacement(ANIMAL, n=7, seed=1, **fields)
    assert {one.ids for one in whole.data.found} == set(exact) and whole.threshold == -math.inf
    assert whole.frame()["inclusion_probability"].tolist() == [1.0] * 4
    assert whole.frame()["weight"].sum() == pytest.approx(1)


def test_weights_are_probabilities_over_inclusion(demo: Lab) -> None:
    frame = demo.sample_without_replacement(ANIMAL, n=5, seed=5).frame()
    np.testing.assert_allclose(
        frame["weight"] * frame["inclusion_probability"], np.exp(frame["sampling_logprob"]), rtol=1e-9
    )
    assert frame["perturbed_logprob"].is_monotonic_decreasing and len(set(frame["text"])) == 5
    fewer = demo.sample_without_replacement(ANIMAL, n=3, seed=5).frame()
    assert fewer["text"].tolist() == frame["text"].tolist()[:3]


def test_codes_cover_the_distribution_of_the_first_token(demo: Lab) -> None:
    """Of 30 answers, in four blocks, a token begins as many as its probability says, rounded up or down."""
    fields = {"temperature": 0.9, "top_p": 0.95}
    probs = demo.next_token(ANIMAL, **fields).frame(top=20)
    found = demo.arithmetic_sample(ANIMAL, n=30, seed=11, max_tokens=2, **fields)
    begun = Counter(one.ids[0] for one in found.data.found)
    for token, prob in zip(probs["token_id"], np.exp(probs["sampling_logprob"]), strict=True):
        assert math.floor(30 * prob - 1e-4) <= begun[token] <= math.ceil(30 * prob + 1e-4)
    codes = np.sort(found.frame()["code"])
    np.testing.assert_allclose(np.diff(codes), 1 / 30, rtol=1e-9)


@pytest.mark.parametrize("method", ["beam_search", "sample_without_replacement", "arithmetic_sample"])
def test_a_second_search_repeats_the_first_and_compiles_nothing(demo: Lab, method: str) -> None:
    fields = {"max_tokens": 6, "temperature": 0.8, "n": 4, **({} if method == "beam_search" else {"seed": 9})}
    first = getattr(demo, method)(STORY, **fields)
    before = len(compiled())
    again = getattr(demo, method)(STORY, **fields)
    assert compiled()[before:] == []
    pd.testing.assert_frame_equal(first.frame(), again.frame())
    pd.testing.assert_frame_equal(first.tokens_frame(), again.tokens_frame())
    if method != "beam_search":
        other = getattr(demo, method)(STORY, **{**fields, "seed": 10})
        assert other.frame()["sampling_logprob"].tolist() != first.frame()["sampling_logprob"].tolist()
        drawn = getattr(demo, method)(STORY, **{**fields, "seed": None})
        assert drawn.data.seed is not None and drawn.request.seed == drawn.data.seed
        repeated = getattr(demo, method)(STORY, **{**fields, "seed": drawn.data.seed})
        pd.testing.assert_frame_equal(repeated.frame(), drawn.frame())


@pytest.mark.parametrize("method", ["beam_search", "sample_without_replacement", "arithmetic_sample"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(demo: Lab, monkeypatch, method: str, error) -> None:
    expected = demo.chat(ANIMAL, seed=1, max_tokens=4).texts
    advance, steps, last = ModelSpace.advance, [], demo.last

    def stopped(self, parents, tokens):
        steps.append(len(tokens))
        if len(steps) == 2:
            raise error
        return advance(self, parents, tokens)

    monkeypatch.setattr(ModelSpace, "advance", stopped)
    with pytest.raises(error):
        getattr(demo, method)(STORY, max_tokens=8)
    monkeypatch.undo()
    gc.collect()
    assert len(steps) == 2 and demo.backend.engine._lanes._searched == 0 and demo.last is last
    assert demo.chat(ANIMAL, seed=1, max_tokens=4).texts == expected


def test_a_raw_prompt_and_a_request(demo: Lab) -> None:
    found = demo.beam_search(prompt="Once upon a", beams=3, max_tokens=4)
    assert found[0].text.startswith(" time") and found.request.n == 3
    request = demo.request(ANIMAL, n=3, max_tokens=4)
    assert len(demo.sample_without_replacement(request)) == 3
    assert len(demo.beam_search(request, beams=5)) == 3
    assert demo.beam_search(request, beams=5, n=2).texts == demo.beam_search(request, beams=5).texts[:2]


def test_stop_token_ids_and_ignore_eos(demo: Lab) -> None:
    time = demo.tokenize(" time")[0]
    found = demo.beam_search(STORY, beams=4, max_tokens=12, stop_token_ids=[time])
    assert [one.ids[-1] for one in found.data.found].count(time) >= 1
    for one in found.data.found:
        assert (one.finish_reason == "stop") == (one.ids[-1] in (time, *demo.backend.end_ids))
        assert time not in one.ids[:-1]
    on = demo.beam_search(ANIMAL, beams=2, max_tokens=5, ignore_eos=True)
    assert [len(one.ids) for one in on.data.found] == [5, 5]


WRONG = [
    ("beams", "beam_search", {"beams": 0}, "beams must be at least 1, got 0"),
    ("beams", "beam_search", {"beams": 9}, "beams = 9 is more .* at most 8"),
    ("groups", "beam_search", {"beams": 4, "groups": 3}, "groups = 3 does not divide beams = 4"),
    (
        "groups",
        "beam_search",
        {"beams": 4, "groups": 2},
        "groups = 2 would all find the same without diversity_penalty",
    ),
    ("diversity_penalty", "beam_search", {"diversity_penalty": 0.5}, "compares groups of beams, and there is one"),
    ("diversity_penalty", "beam_search", {"groups": 2, "diversity_penalty": -1.0}, "diversity_penalty must be between"),
    ("length_penalty", "beam_search", {"length_penalty": math.nan}, "must be between -32 and 32, got nan"),
    ("n", "beam_search", {"beams": 3, "n": 4}, "n = 4 is more than beams = 3"),
    ("n", "beam_search", {"n": 0}, "n must be between 1 and 128, got 0"),
    ("seed", "beam_search", {"seed": 3}, "seed = 3 would have no effect"),
    ("n", "sample_without_replacement", {"n": 8}, "n = 8 is more .* at most 7"),
    ("n", "arithmetic_sample", {"n": 129}, "n must be"),
    ("order", "arithmetic_sample", {"order": "vllm-ish"}, "order must be one of"),
    ("temprature", "arithmetic_sample", {"temprature": 1}, "did you mean 'temperature'"),
    *(
        (name, method, {name: value}, f"{name} = .*{said}")
        for method in ("beam_search", "sample_without_replacement", "arithmetic_sample")
        for name, value, said in (
            ("stop", ["x"], "stop_token_ids"),
            ("stream", True, "no answer before its end"),
            ("xtc_probability", 0.5, "at random"),
        )
    ),
    ("mirostat", "beam_search", {"mirostat": 2}, "the stage mirostat adjusts itself.*leave mirostat out"),
    ("adaptive_target", "arithmetic_sample", {"adaptive_target": 0.3}, "leave adaptive_target out"),
]


@pytest.mark.parametrize(("param", "method", "fields", "said"), WRONG, ids=[f"{w[1]}-{w[2]}" for w in WRONG])
def test_what_makes_no_sense_is_named(demo: Lab, param: str, method: str, fields: dict, said: str) -> None:
    last = demo.last
    with pytest.raises(RequestError, match=said) as bad:
        getattr(demo, method)(ANIMAL, **{"max_tokens": 4, **fields})
    assert bad.value.param == param and demo.last is last


def test_an_order_that_lacks_a_stage_is_refused_before_the_search(demo: Lab) -> None:
    with pytest.raises(RequestError, match="top_k would have no effect"):
        demo.beam_search(ANIMAL, order=["mask", "temperature"], top_k=5)


def test_an_endpoint_gives_no_logits() -> None:
    far = Lab(Endpoint(lambda body: spoken(entry("Cat", -0.3))).backend())
    for method in ("beam_search", "sample_without_replacement", "arithmetic_sample"):
        with pytest.raises(RequestError, match=r"endpoint that gives no logits; llmlab\.load"):
            getattr(far, method)(ANIMAL)


def test_a_prompt_that_fills_the_context(demo: Lab) -> None:
    with pytest.raises(RequestError, match="no room in the context"):
        demo.beam_search(prompt=[5] * 512)


def test_help_shows_the_fields() -> None:
    shown = signature(Lab.beam_search).parameters
    assert list(shown)[:9] == [
        "self", "messages", "beams", "groups", "diversity_penalty", "length_penalty", "early_stopping", "n", "order"
    ]  # fmt: skip
    assert {"temperature", "max_tokens", "logit_bias", "prompt"} <= set(shown)
    assert not {"seed", "stop", "stream"} & set(shown)
    assert "seed" in signature(Lab.arithmetic_sample).parameters


@pytest.fixture(scope="module")
def found(demo: Lab) -> dict[str, SearchResult]:
    return {
        "beams": demo.beam_search(STORY, beams=4, groups=2, diversity_penalty=1.0, max_tokens=10, length_penalty=0.8),
        "sample": demo.sample_without_replacement(ANIMAL, n=4, seed=5),
        "codes": demo.arithmetic_sample(ANIMAL, n=6, seed=5),
    }


def test_what_is_found_can_be_read_drawn_and_pickled(found) -> None:
    said = repr(found["beams"])
    assert said.splitlines()[0] == (
        "beam search, beams 4, groups 2, diversity_penalty 1, length_penalty 0.8: 4 sequences"
    )
    assert "Once upon" in said and "(length)" in said and len(said.splitlines()) == 5
    assert repr(found["sample"]).startswith("sampling without replacement, seed 5: 4 sequences\n  1  logprob")
    for one in found.values():
        assert "<table" in one._repr_html_() and len(list(one)) == len(one)
        assert one[0].text == one.texts[0] == one.result.text
        copy = pickle.loads(pickle.dumps(one))
        pd.testing.assert_frame_equal(copy.frame(), one.frame())
        assert repr(copy) == repr(one)


def test_the_tree_has_each_beginning_once(found) -> None:
    for one in found.values():
        nodes = one.tree.frame()
        beginnings = {each.ids[: at + 1] for each in one.data.found for at in range(len(each.ids))}
        assert len(nodes) == len(beginnings)
        whole = {tuple(nodes["token_id"][at] for at in one.tree.path(node)) for node in nodes["node"]}
        assert whole == beginnings
        best = one.data.found[0]
        assert nodes["taken"].sum() == len(best.ids)
        leaf = nodes[nodes["taken"]].iloc[-1]
        assert leaf["path_sampling_logprob"] == pytest.approx(sum(best.logprobs))
        assert bool(leaf["end"]) == (best.finish_reason == "stop")
