"""Counterfactuals: the identity, what a change flips, and why; the reasons against the engine's own draws."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from llmlab.counterfactuals.attribution import OUTSIDE, Setting
from llmlab.counterfactuals.diff import ALIGNED_COLUMNS, DIFF_COLUMNS, WHY_COLUMNS, aligned, first_difference
from llmlab.engine.scheduler import Row
from llmlab.errors import RequestError
from tests.columns import assert_declared


@pytest.fixture(scope="module")
def story(demo):
    return demo.chat("Tell me a story.", n=6, seed=3, max_tokens=24, temperature=0.9, top_p=0.95)


def figures(result):
    return [
        [getattr(choice.tokens, name).tolist() for name in ("ids", "logprob", "sampling_logprob", "entropy", "kept")]
        for choice in result.choices
    ]


@pytest.mark.parametrize(
    "fields",
    [{}, {"stop": "was"}, {"enable_thinking": True}, {"response_format": {"type": "json_object"}}, {"seed": None}],
    ids=str,
)
def test_without_a_change_it_is_the_same_to_the_bit(demo, fields):
    result = demo.chat("Tell me a story.", **{"n": 3, "seed": 11, "max_tokens": 30, **fields})
    again = result.rerun()
    assert figures(again) == figures(result)
    assert again.texts == result.texts and again.finish_reasons == result.finish_reasons
    assert again.parent is result and again.lab is demo and demo.last is again
    assert again.request.seed == result.seed
    diff = again.diff()
    assert diff.changes == {} and set(diff.first_differences.values()) == {None}
    assert "the same parameters" in repr(diff) and diff.frame()["same"].all()


def test_a_raw_prompt_and_its_order_are_kept(demo):
    result = demo.complete("Once upon", max_tokens=8, seed=2, order="vllm", min_p=0.1)
    assert result.rerun().order == "vllm" and figures(result.rerun()) == figures(result)
    other = result.rerun(order="llama.cpp")
    assert (other.order, other.diff().changes) == ("llama.cpp", {"order": ("vllm", "llama.cpp")})


def test_a_pickle_keeps_the_parent(story):
    copy = pickle.loads(pickle.dumps(story.rerun(temperature=0.5)))
    assert copy.lab is None and figures(copy.parent) == figures(story)
    own = story.rerun(temperature=0.5).diff().frame()["position"]
    np.testing.assert_array_equal(copy.diff().frame()["position"], own)
    with pytest.raises(RequestError, match="loaded without a lab"):
        copy.rerun()


def test_what_cannot_be_rerun_or_compared(story):
    for changes, named in (({"temperature": 9}, "temperature"), ({"stream": True}, "stream"), ({"heat": 1}, "heat")):
        with pytest.raises(RequestError) as told:
            story.rerun(**changes)
        assert told.value.param == named
    with pytest.raises(RequestError, match="order must be one of"):
        story.rerun(order="theirs")
    with pytest.raises(RequestError, match=r"r\.diff\(other\)"):
        story.diff()


def test_the_frames(story):
    diff = story.rerun(temperature=0.2, top_p=1.0, max_tokens=20).diff()
    frame, tokens, why = diff.frame(), diff.tokens_frame(), diff.why_frame()
    for found, columns in ((frame, DIFF_COLUMNS), (tokens, ALIGNED_COLUMNS), (why, WHY_COLUMNS)):
        assert_declared(found, columns)
    assert frame["choice"].tolist() == list(range(6)) == list(range(len(diff)))
    for row in frame.itertuples():
        before, after = story.choices[row.choice].tokens, diff.after.choices[row.choice].tokens
        at = first_difference(before, after)
        assert row.position == at and row.token_id == before.ids[at]
        assert before.ids[:at].tolist() == after.ids[:at].tolist()
        own = tokens[tokens["choice"] == row.choice]
        assert own["token_id"].dropna().tolist() == before.ids.tolist()
        assert own["token_id_after"].dropna().tolist() == after.ids.tolist()
        np.testing.assert_array_equal(own["logprob_after"].dropna().to_numpy(np.float32), after.logprob)
        assert (own["change"].iloc[:at] == "same").all() and own["change"].iloc[at] != "same"
        trials = why[why["choice"] == row.choice]
        assert trials["changed"].tolist() == ["", "temperature", "top_p", "temperature + top_p"]
        assert trials["token_id"].iloc[0] == row.token_id and trials["token_id"].iloc[-1] == row.token_id_after
        assert trials["flips"].tolist() == (trials["token_id"] == row.token_id_after).tolist()
        named = trials["changed"][trials["cause"]].tolist()
        assert [f"{name} {'together' if '+' in name else 'alone'}".replace(" +", " and") for name in named] == (
            row.cause.split(", or ")
        )


def test_a_diff_of_nothing_has_its_columns(story):
    assert len(story.rerun().diff().why_frame()) == 0
    nobody = story.branch(3, choice=2).diff(story.branch(3, choice=4))
    frames = (
        (nobody.frame(), DIFF_COLUMNS),
        (nobody.tokens_frame(), ALIGNED_COLUMNS),
        (nobody.why_frame(), WHY_COLUMNS),
    )
    for found, columns in frames:
        assert_declared(found, columns)
        assert len(found) == 0


def test_alignment_finds_what_was_put_in_and_left_out(make_tokens):
    before, after = make_tokens((0, 1, 2, 3, 4, 5)), make_tokens((0, 1, 9, 3, 4, 8, 5, 7))
    assert aligned(before, after) == [
        ("same", 0, 0), ("same", 1, 1), ("replaced", 2, 2), ("same", 3, 3), ("same", 4, 4), ("added", None, 5),
        ("same", 5, 6), ("added", None, 7),
    ]  # fmt: skip
    assert first_difference(before, after) == 2
    assert first_difference(before, make_tokens((0, 1))) == 2 and first_difference(before, before) is None


def test_a_reader_sees_where_and_why(story):
    diff = story.rerun(temperature=0.1).diff()
    row = diff.frame().iloc[0]
    assert f"position {row.position}" in repr(diff) and "temperature alone" in repr(diff)
    assert "temperature 0.9 → 0.1" in repr(diff)
    html = diff._repr_html_()
    assert "temperature alone" in html and html.count("<table>") == len(diff.frame()[~diff.frame()["same"]])
    assert "<script" not in story.rerun(messages="Say <script>").diff()._repr_html_()


def test_a_reader_is_not_shown_every_choice(demo):
    many = demo.chat("Name an animal.", n=12, seed=1, max_tokens=3, temperature=1.5)
    diff = many.rerun(temperature=0).diff()
    same = int(diff.frame()["same"].tail(4).sum())
    rest = f"… and 4 more choices, {same} of them the same: frame() has them"
    assert repr(diff).endswith(rest) and "[7] " in repr(diff) and "[8] " not in repr(diff)
    assert rest in diff._repr_html_() and "[8] " not in diff._repr_html_()
    assert len(diff.frame()) == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_tokens": 10}, "the run after had ended (length), by max_tokens"),
        ({"stop": "was"}, "the run after had ended (stop), by stop"),
    ],
)
def test_a_run_that_ended_earlier(story, changes, said):
    shorter = story.rerun(**changes)
    frame = shorter.diff().frame()
    assert set(frame["cause"][~frame["same"]]) == {said} and (~frame["same"]).sum() >= 3
    assert frame["token_after"].isna().all() and (frame["position"].dropna() < 24).all()
    back = story.diff(shorter).frame()
    assert set(back["cause"][~back["same"]]) == {said.replace("after", "before")}


def test_an_end_token_that_was_ignored(demo):
    result = demo.chat("Could you please tell me a tree? Only the answer.", seed=1, max_tokens=20)
    assert result.choices[0].tokens.segment[-1] == "end"
    assert "by ignore_eos" in result.rerun(ignore_eos=True).diff().frame()["cause"][0]


def test_grammar_and_prompt_are_reasons_too(story):
    formed = story.rerun(response_format={"type": "json_object"}, temperature=1.0).diff()
    assert set(formed.frame()["cause"]) == {"response_format alone"}
    asked = story.rerun(messages="What is two and two?", top_k=100).diff()
    assert set(asked.frame()["cause"]) == {"messages alone"}


def unlike(rng, names):
    """Random values for some parameters."""
    values = {
        "temperature": lambda: float(rng.uniform(0.2, 1.8)),
        "top_p": lambda: float(rng.uniform(0.3, 1.0)),
        "top_k": lambda: int(rng.integers(2, 60)),
        "min_p": lambda: float(rng.uniform(0.0, 0.3)),
        "frequency_penalty": lambda: float(rng.uniform(-1, 2)),
        "presence_penalty": lambda: float(rng.uniform(-1, 2)),
        "repetition_penalty": lambda: float(rng.uniform(0.6, 1.6)),
        "logit_bias": lambda: {int(i): float(rng.uniform(-4, 4)) for i in rng.integers(0, 2000, 300)},
        "min_tokens": lambda: int(rng.integers(0, 12)),
        "seed": lambda: int(rng.integers(0, 2**40)),
        "order": lambda: str(rng.choice(["vllm", "sglang", "llama.cpp"])),
    }
    return {name: values[name]() for name in names}


@pytest.mark.slow
def test_the_reasons_are_those_of_the_engine(demo):
    """Each mixture's token from the engine itself, one step behind the tokens that both runs drew; the smallest
    mixtures that draw the token after are the causes. Over every choice of many random pairs of settings."""
    rng = np.random.default_rng(4)
    kinds = list(unlike(rng, ["temperature"])) + ["top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"]
    kinds += ["repetition_penalty", "logit_bias", "min_tokens", "seed", "order"]
    prompts = ("Tell me a story.", "Could you please tell me a tree? Only the answer.", "What is two and two?")
    checked, several, mixtures = 0, 0, 0
    for number in range(28):
        had = unlike(rng, rng.choice(kinds[:9], 3, replace=False))
        before = demo.chat(prompts[number % 3], n=8, max_tokens=12, **{"seed": number, **had})
        changed = unlike(rng, rng.choice(kinds, rng.integers(1, 5), replace=False))
        after = before.rerun(**changed)
        diff = after.diff()
        names = [name for name in diff.changes if name not in OUTSIDE]
        parts = [part for size in range(len(names) + 1) for part in itertools.combinations(names, size)]
        ours = Setting(before.request, before.seed, before.order), Setting(after.request, after.seed, after.order)
        settings = [ours[0].mixed(ours[1], part) for part in parts]
        asked = {
            index: found
            for index, found in diff.first_differences.items()
            if found is not None and found.reason is not None
        }
        drawn = engine_draws(demo.backend, before, settings, {index: found.position for index, found in asked.items()})
        for index, found in asked.items():
            token = int(after.choices[index].tokens.ids[found.position])
            theirs = dict(zip(parts, (drawn[index, part] for part in range(len(parts))), strict=True))
            if not found.reason.reproduced:
                pytest.fail(f"{number}, choice {index}: not reproduced")
            for trial in found.reason.trials:
                assert trial.drawn is not None and trial.drawn.token == theirs[trial.changed], (number, index, trial)
            flips = [part for part in parts if theirs[part] == token]
            smallest = {part for part in flips if not any(set(other) < set(part) for other in flips)}
            assert set(found.reason.causes) == smallest, (number, index)
            checked += 1
            several += any(len(cause) > 1 for cause in smallest)
            mixtures += len(parts)
    print(f"{checked} divergences, {mixtures} mixtures, {several} of them flipped by several changes together")
    assert checked >= 100 and several >= 4


def engine_draws(backend, before, settings, places):
    """(choice, setting) -> the token that the engine draws behind a choice's first tokens, so many as `places` says."""
    found = {}
    for order in {setting.order for setting in settings}:
        rows, keys = [], []
        for number, setting in enumerate(settings):
            for index, at in places.items() if setting.order == order else ():
                params = backend.sampling_params(setting.request, seed=setting.seed, choice=index)
                made = before.choices[index].tokens.ids[:at]
                rows.append(Row(before.prompt_ids, params, budget=1, ignore_ends=True, made=made))
                keys.append((index, number))
        for block in backend.engine.submit(rows, order=order):
            for piece in block:
                found[keys[piece.row]] = int(piece.tokens[0])
    return found
