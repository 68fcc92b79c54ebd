from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from llmlab.distributions.flip_points import COLD, Interval, Ranking, Settings, flip_points
from llmlab.distributions.step import CUTS, FIXED, NO_CUTS, cut_settings
from llmlab.errors import RequestError
from llmlab.frames.distribution import FLIP_POINTS_COLUMNS
from llmlab.protocol.request import ChatRequest
from llmlab.results.next_token_at import first_token
from llmlab.sampling.params import SamplingParams
from llmlab.sampling.pipeline import ORDERS
from tests.distributions.scan import PARAMETERS, TAILS, Case, alive, drawn, grid, intervals
from tests.results.test_next_token import END, FakeBackend, V

CASES = 520


def random_case(rng: np.random.Generator, order: str) -> Case:
    size = int(rng.choice([2, 3, 7, 24, 60, 160]))
    logits = rng.normal(0, rng.choice([0.3, 1.5, 5.0]), size)
    if rng.random() < 0.25:
        logits = rng.choice(logits, size)  # some values occur several times
    logits = logits.astype(np.float32)
    logits[1:][rng.random(size - 1) < rng.choice([0.0, 0.0, 0.4])] = -np.inf
    held = {
        "temperature": rng.choice([1.0, rng.uniform(0.05, 2.0)]),
        "top_k": rng.choice([np.inf, rng.integers(1, min(size + 4, 129))]),
        "top_p": rng.choice([1.0, rng.uniform(0.02, 0.999)]),
        "min_p": rng.choice([0.0, rng.uniform(0.0, 0.5), rng.uniform(0.0, 0.02)]),
    }
    return Case(
        logits=logits,
        noise=rng.gumbel(size=size).astype(np.float32),
        order=order,
        held={name: float(np.float32(value)) for name, value in held.items()},
    )


def exact(case: Case, token: int) -> dict[tuple[str, str], list[float]]:
    found = flip_points(case.logits, token, stages=TAILS[case.order], settings=Settings(**case.held), noise=case.noise)
    return {(one.event, one.parameter): [] if np.isnan(one.low) else [one.low, one.high] for one in found}


def happens(case: Case, token: int, event: str, parameter: str, values: np.ndarray) -> np.ndarray:
    if event == "kept":
        return alive(case, parameter, values)[:, token]
    return drawn(case, parameter, values) == token


@pytest.mark.slow
def test_they_agree_with_a_brute_force_scan() -> None:
    """Each interval, its being the only one, and each "never", over every order, event and parameter."""
    rng = np.random.default_rng(20)
    orders = itertools.cycle(TAILS)
    seen = dict.fromkeys(itertools.product(("kept", "drawn"), PARAMETERS, (0, 1)), 0)
    inside = 0
    for _ in range(CASES):
        case = random_case(rng, next(orders))
        likely = np.argsort(-case.logits)[: max(3, len(case.logits) // 3)]
        winner = drawn(case, "top_k", np.array([case.held["top_k"]]))[0]
        token = int(rng.choice([winner, rng.choice(likely)]))
        found = exact(case, token)
        for event, parameter in itertools.product(("kept", "drawn"), PARAMETERS):
            holds = partial(happens, case, token, event, parameter)
            ends = found[event, parameter]
            # The scan has the middle of what was found among its points: a grid may step over a short interval.
            inner = 0.5 * (ends[0] + ends[1]) if ends and np.isfinite(ends).all() else None
            points = grid(parameter, 32)
            if inner is not None and parameter != "top_k":
                points = np.union1d(points, [inner])
            scanned = intervals(holds, points, whole=parameter == "top_k")
            assert len(scanned) == bool(ends), (case, token, event, parameter, ends, scanned)
            seen[event, parameter, len(scanned)] += 1
            if ends:
                inside += ends[0] > points[0] or ends[1] < points[-1]
                assert np.allclose(ends, scanned[0], rtol=1e-6, atol=1e-11), (case, token, event, parameter, scanned)
    assert min(seen.values()) >= 20, f"every kind of answer occurs: {seen}"
    assert inside > CASES, "flips inside the range, not at its ends"


def test_the_scan_has_the_orders_that_there_are() -> None:
    assert {
        order: tuple(stage.name for stage in stages if stage.name not in FIXED) for order, stages in ORDERS.items()
    } == TAILS
    assert all({stage.name for stage in stages[: len(FIXED)]} == set(FIXED) for stages in ORDERS.values())


def test_the_cold_is_a_row_of_its_own() -> None:
    case = random_case(np.random.default_rng(1), "vllm")
    order = np.argsort(-case.logits, kind="stable")
    assert exact(case, int(order[0]))["kept", COLD] == [0.0, 1e-5] == exact(case, int(order[0]))["drawn", COLD]
    assert exact(case, int(order[1]))["kept", COLD] == []


@pytest.mark.parametrize("order", TAILS)
def test_below_the_least_temperature_only_the_first_token_is_kept_whatever_else_is_asked(order: str) -> None:
    case = random_case(np.random.default_rng(3), order)
    cold = case._replace(held=case.held | {"temperature": 0.0})
    best, other = np.argsort(-case.logits, kind="stable")[:2].tolist()
    for event, (parameter, least) in itertools.product(
        ("kept", "drawn"), [("top_k", 1.0), ("top_p", 0.0), ("min_p", 0.0)]
    ):
        most = np.inf if parameter == "top_k" else 1.0
        assert exact(cold, best)[event, parameter] == [least, most]
        assert exact(cold, other)[event, parameter] == []


def test_a_token_that_is_masked_is_never_there() -> None:
    case = random_case(np.random.default_rng(4), "llmlab")
    case.logits[1] = -np.inf
    assert not any(exact(case, 1).values())


def test_an_end_is_an_end_to_the_last_bit() -> None:
    rng = np.random.default_rng(5)
    tried = 0
    for order in list(TAILS) * 10:
        case = random_case(rng, order)
        ranking, rank = Ranking(case.logits, stages=TAILS[order]), 1
        found = flip_points(case.logits, int(ranking.ids[rank]), stages=TAILS[order], settings=Settings(**case.held))
        for parameter, outwards in (("temperature", 0.0), ("top_p", 0.0), ("min_p", 9.0)):
            _, _, low, high = next(one for one in found if one.parameter == parameter)
            end = high if outwards else low
            if np.isfinite(end) and end not in (0.0, 1e-5, 1.0):
                tried += 1
                for value, there in ((end, True), (np.nextafter(end, outwards), False)):
                    at = Settings(**case.held | {parameter: float(value)})
                    assert (ranking.kept(at) > rank) == there
    assert tried > 20


def test_values_that_are_on_or_off_and_nothing_between() -> None:
    """SGLang measures top_p before top_k without min_p, after it with any: a token may be there at min_p 0 alone."""
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    held = Settings(temperature=1.0, top_k=2.0, top_p=0.5, min_p=0.0)
    found = {one.parameter: one for one in flip_points(logits, 1, stages=TAILS["sglang"], settings=held)}
    assert found["min_p"] == Interval("min_p", "kept", 0.0, 0.0)
    rare = flip_points(
        np.zeros(200, np.float32), 150, stages=TAILS["llmlab"], settings=held._replace(top_k=np.inf, top_p=1.0)
    )
    assert [one[2:] for one in rare if one.parameter == "top_k"] == [(np.inf, np.inf)], "no k reaches it; off does"


@pytest.mark.parametrize("order", ORDERS)
def test_the_engines_own_stages_flip_there(order: str) -> None:
    """A little on either side of each end, in float32 with penalties, under the noise that the engine draws with."""
    backend = FakeBackend()
    request = ChatRequest.build(
        "hello", seed=9, temperature=0.8, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.2, logit_bias={7: 1.0}
    )
    next_token = first_token(backend, request, order=order)
    tried = 0
    for token in [*next_token.ranking[:5].tolist(), int(next_token.sample([9])[0])]:
        frame = next_token.flip_points_frame(token)
        for row in frame[frame["parameter"].isin(["temperature", "top_p", "min_p"])].dropna().itertuples():
            for end, inward in ((row.low, 1.0), (row.high, -1.0)):
                if end in (0.0, 1.0, 2.0, 1e-5):
                    continue
                tried += 1
                for sign in (inward, -inward):
                    asked = {row.parameter: end * (1 + sign * 1e-4)}
                    if row.event == "drawn":
                        there = next_token.sample([9], **asked)[0] == token
                    else:
                        there = next_token.frame(top=None, **asked).set_index("token_id").loc[token, "kept"]
                    assert there == (sign == inward), (token, row, sign)
    assert tried >= 8


def test_the_frame() -> None:
    next_token = first_token(FakeBackend(), ChatRequest.build("hello", top_p=0.9))
    frame = next_token.flip_points_frame(" w7")
    assert list(frame.columns) == list(FLIP_POINTS_COLUMNS)
    assert [str(kind) for kind in frame.dtypes] == ["str", "str", "float64", "float64", "float64"]
    names = [COLD, "temperature", "top_k", "top_p", "min_p"]
    assert frame["parameter"].tolist() == names and set(frame["event"]) == {"kept"}, "without a seed nothing is drawn"
    assert frame["value"].tolist() == [1.0, 1.0, np.inf, 0.9, 0.0]
    seeded = next_token.flip_points_frame(7, seed=3)
    assert seeded["event"].tolist() == ["kept"] * 5 + ["drawn"] * 5
    winners = set()
    for choice, position in itertools.product(range(3), range(3)):
        place = {"choice": choice, "position": position, "temperature": 2.0}
        winner = int(next_token.sample([3], **place)[0])
        drawn_rows = next_token.flip_points_frame(winner, seed=3, **place).iloc[6:]
        inside = (drawn_rows["low"] <= drawn_rows["value"]) & (drawn_rows["value"] <= drawn_rows["high"])
        assert inside.all() and len(inside) == 4, "what is drawn here, is drawn with these values"
        winners.add(winner)
    assert len(winners) > 2, "other choices and positions have other noise"
    masked = next_token.flip_points_frame(END - 1, min_tokens=1)
    assert masked[["low", "high"]].isna().all(axis=None) and len(masked) == 5
    with pytest.raises(RequestError, match="47"):
        next_token.flip_points_frame(V)


def test_settings_are_those_that_the_engine_has() -> None:
    assert Settings.of(SamplingParams(top_p=0.9)).top_p == float(np.float32(0.9)) != 0.9
    assert Settings.of(SamplingParams()).top_k == np.inf


def test_the_stages_by_kind_are_those_of_the_orders() -> None:
    """What distributions know of the stages comes from the sampler's own list."""
    assert CUTS == ("top_k", "top_p", "min_p") and NO_CUTS == {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert FIXED == ("logit_bias", "repetition", "frequency", "presence", "mask")
    assert cut_settings(SamplingParams(top_p=0.9, min_p=0.1)) == {"top_p": 0.9, "min_p": 0.1}


def test_the_scan_that_serves_any_stage_finds_what_is_computed() -> None:
    """With a stage in the order that does nothing, the intervals are scanned; the others are in closed form."""
    next_token = first_token(FakeBackend(), ChatRequest.build("hello", seed=3, temperature=0.9, top_p=0.95))
    asked = {"order": ["llmlab", "typical_p"]}
    seen = 0
    for token in next_token.ranking[:4].tolist():
        computed = next_token.flip_points_frame(token).set_index(["parameter", "event"])
        scanned = next_token.flip_points_frame(token, **asked).set_index(["parameter", "event"])
        assert set(scanned.index) - set(computed.index) == {("typical_p", "kept"), ("typical_p", "drawn")}
        for at in computed.index:
            theirs, ours = computed.loc[at, ["low", "high"]], scanned.loc[[at], ["low", "high"]].to_numpy(float)
            np.testing.assert_allclose(ours, [theirs.to_numpy(float)], rtol=2e-6, atol=2e-5, err_msg=f"{token} {at}")
            seen += bool(np.isfinite(ours).all())
    assert seen > 10
