"""The orders of other engines along one completion, and sensitivity to one parameter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib import pyplot as plt

from llmlab.counterfactuals.diff import first_difference
from llmlab.counterfactuals.orders import ORDERS_COLUMNS, PAIRS_COLUMNS
from llmlab.errors import RequestError
from tests.columns import assert_declared

#: Of what an order can turn round: cuts before and after the temperature, penalties before and after each other.
FIELDS = {
    "temperature": 1.9,
    "top_p": 0.7,
    "top_k": 40,
    "min_p": 0.04,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.6,
}


@pytest.fixture(scope="module")
def compared(demo):
    return demo.compare_orders("Tell me a story.", n=4, seed=7, max_tokens=32, **FIELDS)


@pytest.mark.slow
def test_the_laws_are_those_of_each_step(demo, compared):
    """Total variation, kept, entropy and all, against the law of the same step by itself."""
    frame, base = compared.frame(), compared.base
    assert_declared(frame, ORDERS_COLUMNS)
    assert len(frame) == sum(len(choice.tokens) for choice in base.choices) * 4
    apart = 0
    furthest = frame.loc[frame.groupby("order")["total_variation"].idxmax()]
    places = {(0, 0), (1, 31), *zip(furthest["choice"].tolist(), furthest["position"].tolist(), strict=True)}
    for choice, at in places:
        ledger = base.next_token(at, choice=choice)
        rows = frame[(frame["choice"] == choice) & (frame["position"] == at)].set_index("order")
        laws = {order: probabilities(ledger, order) for order in compared.results}
        for order, law in laws.items():
            row = rows.loc[order]
            token = int(base.choices[choice].tokens.ids[at])
            assert row["token_id"] == token and row["kept"] == (law > 0).sum()
            assert row["total_variation"] == pytest.approx(0.5 * np.abs(law - laws["llmlab"]).sum(), abs=1e-5)
            assert np.exp(row["sampling_logprob"]) == pytest.approx(law[token], abs=1e-5)
            entropy = -np.sum(law[law > 0] * np.log(law[law > 0]))
            assert row["sampling_entropy"] == pytest.approx(entropy, abs=1e-4)
            apart += row["total_variation"] > 1e-3
    assert apart >= 3


def probabilities(ledger, order):
    frame = ledger.frame(top=None, order=order)
    law = np.zeros(len(frame))
    law[frame["token_id"].to_numpy(int)] = np.exp(frame["sampling_logprob"].to_numpy(float))
    return law


def test_our_own_law_is_the_one_drawn_from(compared):
    frame = compared.frame()
    own = frame[frame["order"] == "llmlab"]
    reported = compared.base.logprobs_frame()
    for ours, theirs in (("sampling_logprob", "sampling_logprob"), ("sampling_entropy", "sampling_entropy")):
        np.testing.assert_allclose(own[ours].to_numpy(float), reported[theirs].to_numpy(float), atol=1e-4)
    assert own["kept"].tolist() == reported["kept"].tolist()
    assert (own["drawn_id"] == own["token_id"]).mean() > 0.98, "but for near ties the noise draws what was drawn"
    assert (own["total_variation"] == 0).all()


def test_each_orders_own_completion_parts_where_its_draw_differs(compared):
    frame = compared.frame()
    parted = 0
    for order, result in compared.results.items():
        if order == "llmlab":
            continue
        assert result.order == order and result.parent is compared.base
        for before, after in zip(compared.base.choices, result.choices, strict=True):
            rows = frame[(frame["choice"] == before.index) & (frame["order"] == order)]
            other = np.nonzero((rows["drawn_id"] != rows["token_id"]).to_numpy(bool))[0]
            at = first_difference(before.tokens, after.tokens)
            assert at == (other[0] if len(other) else None)
            if at is not None:
                parted += 1
                assert rows["drawn_id"].iloc[at] == after.tokens.ids[at]
                assert compared.results[order].diff().first_differences[before.index].cause == "order alone"
    assert parted >= 2


def test_pairs_and_summary(compared):
    pairs = compared.pairs_frame()
    assert_declared(pairs, PAIRS_COLUMNS)
    with_ours = pairs[pairs["order"] == "llmlab"]
    frame = compared.frame()
    for order, rows in with_ours.groupby("other"):
        own = frame[frame["order"] == order]["total_variation"].to_numpy(float)
        np.testing.assert_array_equal(rows["total_variation"].to_numpy(float), own)
    assert len(pairs) == 6 * len(frame) / 4 and pairs["total_variation"].between(0, 1).all()
    summary = compared.summary_frame()
    assert summary["order"].tolist() == ["vllm", "sglang", "llama.cpp"]
    assert (summary["mean_total_variation"] <= summary["max_total_variation"]).all()
    head = "Orders: vllm, sglang, llama.cpp against llmlab, along the tokens of llmlab"
    assert repr(compared).splitlines()[0] == head and "<table" in compared._repr_html_()
    assert head in compared._repr_html_()


def test_a_result_is_compared_as_it_is_also_under_a_grammar(demo):
    formed = demo.chat("A person.", seed=2, max_tokens=16, temperature=1.2, response_format={"type": "json_object"})
    compared = demo.compare_orders(formed, orders=["llama.cpp"])
    assert compared.base is formed and list(compared.results) == ["llmlab", "llama.cpp"]
    own = compared.frame()[lambda frame: frame["order"] == "llmlab"]
    assert own["kept"].tolist() == formed.logprobs_frame()["kept"].tolist()
    assert compared.results["llama.cpp"].text.lstrip().startswith("{")
    with pytest.raises(RequestError, match="rerun it first"):
        demo.compare_orders(formed, temperature=0.2)
    with pytest.raises(RequestError, match="order must be one of"):
        demo.compare_orders("Hello", orders=["theirs"])


# --- sensitivity ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(demo):
    return demo.chat("Tell me a story.", n=4, seed=3, max_tokens=20, temperature=0.9)


def test_sensitivity_compares_with_each_rerun(story):
    values = np.array([0.0, 0.9, 1.7])
    found = story.sensitivity(temperature=values)
    frame = found.frame()
    kinds = {
        "temperature": "number", "choice": "index", "same": "flag", "position": "count", "token": "text",
        "token_after": "text", "tokens": "count", "tokens_after": "count",
    }  # fmt: skip
    assert_declared(frame, kinds)
    assert frame["temperature"].tolist() == np.repeat(values, 4).tolist()
    for value in values.tolist():
        rows = frame[frame["temperature"] == value]
        expected = story.rerun(temperature=value).diff().frame()
        for name in ("position", "token", "token_after", "same"):
            assert (
                rows[name].tolist() == expected[name].tolist()
                or rows[name].isna().tolist() == expected[name].isna().tolist()
            )
    assert frame[frame["temperature"] == 0.9]["same"].all() and not frame["same"].all()
    assert all(result.parent is story for result in found.results)
    assert "temperature" in repr(found) and "<table" in found._repr_html_()
    few, many = found, story.sensitivity(temperature=np.linspace(0, 2, 9))
    same = int(frame["same"].sum())
    assert repr(few).startswith(f"Sensitivity: temperature 0.9 → 0, 0.9, 1.7 · {same} of 12 answers are the same\n")
    assert len(repr(few).splitlines()) == 1 + 1 + 12
    assert len(repr(many).splitlines()) < 26 and many._repr_html_().count("<tr") < 26, "no page of rows"
    assert len(many.frame()) == 9 * 4


def test_other_parameters_and_the_order(story):
    assert story.sensitivity(order=["vllm", "llama.cpp"]).frame()["order"].tolist() == ["vllm"] * 4 + ["llama.cpp"] * 4
    biased = story.sensitivity(logit_bias=[{}, {5: 1.0}])
    assert biased.frame()["logit_bias"].tolist() == ["{}"] * 4 + ['{"5": 1.0}'] * 4
    branched = story.branch(4, " once").sensitivity(temperature=[0.9, 0.0])
    positions = branched.frame()["position"]
    assert positions.isna()[0] and (positions.dropna() > 4).all()


@pytest.mark.parametrize(
    ("moved", "values", "dtype"),
    [
        ({"seed": [3, 2**60 + 1, -1]}, [3, 2**60 + 1, -1], "int64"),  # to the last digit
        ({"top_k": [None, -1, 3]}, [0, 0, 3], "int64"),  # off is 0, as in a sweep
        ({"max_tokens": [2, None]}, [2.0, math.nan], "float64"),
        ({"temperature": [1, 0.5]}, [1.0, 0.5], "float64"),
        ({"enable_thinking": [True, None]}, [True, None], "object"),
        ({"messages": ["Hi."]}, ['[{"content": "Hi.", "role": "user"}]'], "str"),
    ],
    ids=str,
)
def test_the_values_of_a_sensitivity_are_those_that_were_asked(demo, moved, values, dtype):
    plain = demo.chat("Name a colour.", seed=3, max_tokens=2)
    found = plain.sensitivity(**moved)
    column = found.frame()[next(iter(moved))]
    assert str(column.dtype) == dtype
    assert [repr(value) for value in column.tolist()] == [repr(value) for value in values]
    assert len(found.plot().lines) >= 1
    plt.close("all")


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ({}, "give one parameter"),
        ({"top_p": [1], "min_p": [0]}, "got top_p, min_p"),
        ({"temperature": 0.5}, "list of values"),
        ({"temperature": []}, "at least one"),
        ({"temperature": [0.5, 7]}, "7"),
        ({"heat": [1]}, "heat"),
    ],
    ids=str,
)
def test_what_cannot_be_moved(story, moved, said):
    with pytest.raises(RequestError, match=said):
        story.sensitivity(**moved)
