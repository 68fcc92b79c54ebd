"""Each metric against an independent computation: a table made by hand, or scipy's."""

from __future__ import annotations

import functools
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llmlab import metrics
from llmlab.errors import RequestError
from llmlab.frames.tokens import logprobs_frame


@pytest.fixture
def tokens() -> pd.DataFrame:
    """Two choices: `a b a b c`, and `a`."""
    return pd.DataFrame(
        {
            "choice": [0, 0, 0, 0, 0, 1],
            "token_id": [1, 2, 1, 2, 3, 1],
            "bytes": [b"a", b"b", b"a", b"b", b"c", b"a"],
            "logprob": [-1.0, -2.0, -3.0, -2.0, -2.0, -5.0],
            "sampling_logprob": [-0.5, -1.5, -0.5, -1.5, -1.0, -4.0],
            "entropy": [1.0, 2.0, 3.0, 0.0, 0.0, 0.0],
            "sampling_entropy": [1.0] * 6,
        }
    )


def test_means_over_tokens(tokens) -> None:
    assert metrics.mean_logprob(tokens) == pytest.approx(-2.5)
    assert metrics.mean_logprob(tokens, column="sampling_logprob") == pytest.approx(-1.5)
    assert metrics.perplexity(tokens) == pytest.approx(math.exp(2.5))
    assert metrics.mean_entropy(tokens) == pytest.approx(1.0)
    assert metrics.mean_entropy(tokens, column="sampling_entropy") == 1.0
    # Five tokens of mean -1 and one of mean -4 count alike.
    assert metrics.length_normalised_entropy(tokens) == pytest.approx(2.5)
    assert metrics.length_normalised_entropy(tokens.drop(columns="choice")) == pytest.approx(1.5)
    certain = metrics.length_normalised_entropy(tokens.assign(sampling_logprob=0.0))
    assert certain == 0 and not np.signbit(certain)
    assert metrics.mean_varentropy(tokens) == pytest.approx((0.25 * 4 + 0 + 9) / 6)


def test_perplexity_of_an_even_choice_is_its_size(story) -> None:
    frame = logprobs_frame(story)
    assert metrics.perplexity(frame) == pytest.approx(stats.gmean(np.exp(-story.choices[0].tokens.logprob)), rel=1e-6)
    even = frame.assign(logprob=-math.log(7))
    assert metrics.perplexity(even) == pytest.approx(7)
    impossible = frame.assign(logprob=-math.inf)
    assert metrics.perplexity(impossible) == math.inf


def test_the_estimate_of_the_varentropy_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    prob = np.array([0.5, 0.25, 0.15, 0.1])
    distribution = pd.DataFrame({"logprob": np.log(prob)})
    surprisal = -np.log(prob)
    assert metrics.entropy(distribution) == pytest.approx(stats.entropy(prob))
    exact = metrics.varentropy(distribution)
    of_surprisal = stats.rv_discrete(values=(range(4), prob)).expect(lambda k: surprisal[k.astype(int)] ** 2)
    assert exact == pytest.approx(of_surprisal - stats.entropy(prob) ** 2)
    drawn = surprisal[rng.choice(4, 40_000, p=prob)]
    frame = pd.DataFrame({"sampling_logprob": -drawn, "sampling_entropy": stats.entropy(prob)})
    assert metrics.mean_varentropy(frame) == pytest.approx(exact, rel=0.03)
    assert metrics.varentropy(pd.DataFrame({"logprob": [math.log(0.25)] * 4 + [-math.inf]})) == pytest.approx(0)


def test_distinct_n(tokens) -> None:
    assert metrics.distinct_n(tokens, n=1) == pytest.approx(3 / 6)
    # ab ba ab bc: one of them twice, and no pair across the two choices.
    assert metrics.distinct_n(tokens, n=2) == pytest.approx(3 / 4)
    assert math.isnan(metrics.distinct_n(tokens[tokens["choice"] == 1], n=2))
    nameless = tokens.assign(token_id=[math.nan] * 6)
    assert metrics.distinct_n(nameless, n=2) == pytest.approx(3 / 4), "by their bytes"
    assert math.isnan(metrics.distinct_n(nameless.assign(bytes=None), n=1)), "nothing to tell them apart"
    with pytest.raises(RequestError, match="n must be at least 1, got 0"):
        metrics.distinct_n(tokens, n=0)


def bleu_by_hand(text: list[str], others: list[list[str]]) -> float:
    """The definition, gram by gram."""
    logs = []
    for n in range(1, min(4, len(text)) + 1):
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        matched = 0
        for gram in set(grams):
            most = max(sum(tuple(o[i : i + n]) == gram for i in range(len(o) - n + 1)) for o in others)
            matched += min(grams.count(gram), most)
        extra = int(n > 1)
        logs.append(math.log((matched + extra) / (len(grams) + extra)) if matched + extra else -math.inf)
    closest = min(others, key=lambda o: (abs(len(o) - len(text)), len(o)))
    return min(1.0, math.exp(1 - len(closest) / len(text))) * math.exp(np.mean(logs))


@pytest.mark.parametrize("letters", ["a", "ab", "abcdefgh"])
def test_self_bleu_of_many_sets(letters) -> None:
    """Few words, so that counts tie and a gram's most is now this text's own and now another's."""
    rng = np.random.default_rng(len(letters))
    for _ in range(60):
        texts = [list(rng.choice(list(letters), rng.integers(1, 14))) for _ in range(rng.integers(2, 9))]
        want = np.mean([bleu_by_hand(t, texts[:i] + texts[i + 1 :]) for i, t in enumerate(texts)])
        frame = pd.DataFrame({"text": [" ".join(t) for t in texts]})
        assert metrics.self_bleu(frame) == pytest.approx(want, rel=1e-12, abs=1e-12), texts


def test_self_bleu() -> None:
    rng = np.random.default_rng(1)
    texts = [list(rng.choice(list("abcd"), rng.integers(1, 9))) for _ in range(12)]
    want = np.mean([bleu_by_hand(t, texts[:i] + texts[i + 1 :]) for i, t in enumerate(texts)])
    frame = pd.DataFrame({"text": [" ".join(t) for t in texts]})
    assert 0.2 < want < 0.95
    assert metrics.self_bleu(frame) == pytest.approx(want)
    assert metrics.self_bleu(pd.DataFrame({"text": ["a cat sat on the mat"] * 3})) == pytest.approx(1)
    assert metrics.self_bleu(pd.DataFrame({"text": ["a b", "c d", "e"]})) == 0
    assert metrics.self_bleu(pd.DataFrame({"text": ["", ""]})) == 1 and math.isnan(metrics.self_bleu(frame[:1]))
    assert metrics.self_bleu(pd.DataFrame({"text": ["", "a"]})) == 0
    letters = pd.DataFrame({"text": ["aab", "aab"]})
    assert metrics.self_bleu(letters, split=list) == pytest.approx(1)


def test_pairwise_bleu_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(1)
    texts = [list(rng.choice(list("abcd"), rng.integers(1, 9))) for _ in range(12)]
    want = np.mean([bleu_by_hand(one, [other]) for one, other in itertools.permutations(texts, 2)])
    frame = pd.DataFrame({"text": [" ".join(text) for text in texts]})
    assert metrics.pairwise_bleu(frame) == pytest.approx(want)
    assert metrics.pairwise_bleu(frame[:2]) == pytest.approx(metrics.self_bleu(frame[:2])), "of two they are the same"
    assert metrics.pairwise_bleu(pd.DataFrame({"text": ["a cat sat"] * 3})) == pytest.approx(1)
    assert metrics.pairwise_bleu(pd.DataFrame({"text": ["", ""]})) == 1 and math.isnan(metrics.pairwise_bleu(frame[:1]))
    assert metrics.pairwise_bleu(pd.DataFrame({"text": ["aab", "aab"]}), split=list) == pytest.approx(1)


#: Four answers and their probabilities, some of which share words.
ANSWERS = {"a red cat sat": 0.5, "a red dog sat": 0.25, "a dog": 0.125, "no": 0.125}


def expected(metric, n: int) -> float:
    """The expectation of a metric over all samples of n answers."""
    total = 0.0
    for sample in itertools.product(ANSWERS, repeat=n):
        total += math.prod(ANSWERS[text] for text in sample) * metric(pd.DataFrame({"text": sample}))
    return total


@pytest.mark.parametrize("metric", [metrics.pairwise_bleu, metrics.pairwise_agreement])
def test_what_pairs_say_does_not_depend_on_their_number(metric) -> None:
    exact = sum(
        p * q * metric(pd.DataFrame({"text": [one, other]}))
        for (one, p), (other, q) in itertools.product(ANSWERS.items(), repeat=2)
    )
    assert 0.1 < exact < 0.9
    for n in (2, 3, 4):
        assert expected(metric, n) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "grows"),
    [
        (metrics.self_bleu, True), (metrics.majority_share, False), (metrics.sample_entropy, True),
        (functools.partial(metrics.sample_entropy, corrected=True), True),
    ],
)  # fmt: skip
def test_what_depends_on_the_number_of_samples_says_so(metric, grows) -> None:
    few, some, many = (expected(metric, n) for n in (2, 3, 4))
    assert (few < some < many) if grows else (few > some > many)
    named = getattr(metric, "func", metric)
    assert "depends on" in named.__doc__ or "the fewer completions" in named.__doc__


def test_distinct_n_among_so_many_does_not_depend_on_the_length() -> None:
    rng = np.random.default_rng(0)
    prob = rng.dirichlet(np.ones(30))

    def text(length: int) -> pd.DataFrame:
        return pd.DataFrame({"token_id": rng.choice(30, length, p=prob)})

    exact = (1 - (1 - prob) ** 10).sum() / 10  # the distinct ones among ten draws, of the distribution itself
    for length in (10, 40, 160):
        found = [metrics.distinct_n(text(length), n=1, among=10) for _ in range(400)]
        assert np.mean(found) == pytest.approx(exact, abs=0.012)
    plain = [np.mean([metrics.distinct_n(text(length), n=1) for _ in range(100)]) for length in (10, 40, 160)]
    assert plain[0] > 1.5 * plain[1] > 2 * plain[2], "which the plain share does"
    # By every way to draw three pairs of the six.
    tokens = pd.DataFrame({"token_id": [1, 2, 1, 2, 1, 2, 3]})
    pairs = list(itertools.pairwise(tokens["token_id"]))
    want = np.mean([len(set(drawn)) / 3 for drawn in itertools.combinations(pairs, 3)])
    assert metrics.distinct_n(tokens, n=2, among=3) == pytest.approx(want)
    assert metrics.distinct_n(tokens, n=2, among=6) == pytest.approx(metrics.distinct_n(tokens, n=2))
    assert math.isnan(metrics.distinct_n(tokens, n=2, among=7))
    with pytest.raises(RequestError, match="among must be at least 1, got 0"):
        metrics.distinct_n(tokens, among=0)


def call(arguments: str, name: str = "weather", **more) -> dict:
    return {"name": name, "arguments": arguments, **more}


def test_tool_calls_are_answers() -> None:
    cities = ["Rome", "Oslo", "Lima", "Bonn", "Kyiv", "Baku", "Doha"]
    calls = pd.DataFrame(
        {"text": [""] * 7, "tool_calls": [json.dumps([call(json.dumps({"city": city}))]) for city in cities]}
    )
    assert metrics.sample_entropy(calls) == pytest.approx(math.log(7))
    assert metrics.majority_share(calls) == pytest.approx(1 / 7) and metrics.pairwise_agreement(calls) == 0
    assert metrics.sample_entropy(calls.drop(columns="tool_calls")) == 0, "what the texts alone say"
    assert 0 < metrics.pairwise_bleu(calls) < 1 and 0 < metrics.self_bleu(calls) < 1
    same = [
        [call('{"city": "Rome", "days": 2}')], [call('{"days":2,"city":"Rome"}', id="call_1")],
        json.dumps([call('{"city": "Rome", "days": 2}')]),
        [{"id": "call_2", "type": "function", "function": call('{"city": "Rome", "days": 2}')}],
    ]  # fmt: skip
    frame = pd.DataFrame({"text": ["", None, " ", "\n"], "tool_calls": same})
    assert metrics.majority_share(frame) == 1, "one call, however it is written and whatever its id"
    others = [*same[:1], [call('{"city": "Rome"}')], [call('{"city": "Rome", "days": 2')], [call("{}", name="time")]]
    assert metrics.majority_share(pd.DataFrame({"text": [""] * 4, "tool_calls": others})) == 0.25
    mixed = pd.DataFrame({"text": ["It is warm.", "", "", "Let me see."], "tool_calls": [None, None, *same[:2]]})
    assert metrics.majority_share(mixed) == 0.25
    assert metrics.majority_share(mixed.assign(tool_calls=[math.nan, [], "[]", "null"], text=["a"] * 4)) == 1


@pytest.mark.parametrize(
    "metric",
    [
        metrics.sample_entropy,
        metrics.majority_share,
        metrics.pairwise_agreement,
        metrics.self_bleu,
        metrics.pairwise_bleu,
    ],
)
@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_a_text_that_is_missing_makes_the_metric_unknown(metric, missing) -> None:
    assert math.isnan(metric(pd.DataFrame({"text": ["a", missing, "a"]})))
    assert math.isnan(metric(pd.DataFrame({"text": ["a", missing], "tool_calls": [None, None]})))
    assert metric(pd.DataFrame({"text": ["a", "a"], "tool_calls": [None, None]})) >= 0


def test_shares_of_answers() -> None:
    frame = pd.DataFrame({"text": ["Cat", " Cat\n", "Dog", "Fox"]})
    assert metrics.majority_share(frame) == 0.5
    assert metrics.sample_entropy(frame) == pytest.approx(stats.entropy([2, 1, 1]))
    assert metrics.sample_entropy(frame, corrected=True) == pytest.approx(stats.entropy([2, 1, 1]) + 2 / 8)
    assert metrics.sample_entropy(frame[:2]) == 0
    assert math.isnan(metrics.majority_share(frame[:0])) and math.isnan(metrics.sample_entropy(frame[:0]))


def test_calibration_by_a_table() -> None:
    # Bins of 0.25: (0.2, 0.25) right once of two; (0.6) wrong; (0.9, 1.0, 0.8) right thrice.
    frame = pd.DataFrame(
        {"confidence": [0.2, 0.25, 0.6, 0.9, 1.0, 0.8], "correct": [True, False, False, True, True, True]}
    )
    gaps = [2 / 6 * abs(0.225 - 0.5), 1 / 6 * 0.6, 3 / 6 * abs(0.9 - 1)]
    assert metrics.expected_calibration_error(frame, bins=4) == pytest.approx(sum(gaps))
    assert metrics.expected_calibration_error(frame, bins=1) == pytest.approx(abs(frame["confidence"].mean() - 4 / 6))
    exact = pd.DataFrame({"confidence": [0.3, 0.7], "correct": [0.3, 0.7]})
    assert metrics.expected_calibration_error(exact) == pytest.approx(0), "a probability of being right will do"
    assert metrics.calibration_bins(np.array([0.0, 0.5, 0.50001, 1.0]), bins=2).tolist() == [0, 0, 1, 1]
    with pytest.raises(RequestError, match="confidence lies between 0 and 1, got 0.3 to 7"):
        metrics.expected_calibration_error(exact.replace(0.7, 7.0))


def test_distances_between_laws() -> None:
    rng = np.random.default_rng(2)
    p, q = rng.dirichlet(np.ones(9), 2)
    frame = pd.DataFrame({"p": p, "q": q})
    assert metrics.kl_divergence(frame) == pytest.approx(stats.entropy(p, q))
    assert metrics.kl_divergence(frame, p="q", q="p") == pytest.approx(stats.entropy(q, p))
    # The largest difference over all events, by trying every one.
    events = [(np.array([mask >> k & 1 for k in range(9)]) * (p - q)).sum() for mask in range(2**9)]
    assert metrics.total_variation(frame) == pytest.approx(max(events))
    gone = pd.DataFrame({"p": [0.5, 0.5], "q": [0.8, 0.0]})
    assert metrics.kl_divergence(gone) == math.inf
    assert metrics.total_variation(gone) == pytest.approx(0.5), "0.2 of q lies on what is not listed"
    assert metrics.kl_divergence(pd.DataFrame({"p": [1.0, 0.0], "q": [1.0, 0.0]})) == 0


ALL = [
    metrics.mean_logprob, metrics.perplexity, metrics.mean_entropy, metrics.length_normalised_entropy,
    metrics.mean_varentropy, metrics.entropy, metrics.varentropy, metrics.distinct_n, metrics.self_bleu,
    metrics.pairwise_bleu, metrics.pairwise_agreement,
    metrics.majority_share, metrics.sample_entropy, metrics.expected_calibration_error, metrics.kl_divergence,
    metrics.total_variation, metrics.semantic_entropy, metrics.predictive_entropy, metrics.lexical_similarity,
    metrics.eigenvalue_laplacian, metrics.degree_uncertainty, metrics.sentence_sar, metrics.brier_score,
]  # fmt: skip


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_nothing_says_nothing_and_a_column_that_is_not_there_is_named(metric, tokens) -> None:
    columns = dict.fromkeys(
        ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "confidence", "correct", "p", "q")
    )
    empty = pd.DataFrame({name: np.zeros(0) for name in columns})
    assert math.isnan(metric(empty.assign(text=[], token_id=np.zeros(0, np.int64))))
    with pytest.raises(RequestError, match=f"{metric.__name__} reads the column .*, and the frame has other"):
        metric(pd.DataFrame({"other": [1.0]}))
    assert "ource" in metric.__doc__ or metric in (metrics.mean_logprob, metrics.mean_varentropy)


def test_what_is_not_known_makes_a_mean_unknown(tokens) -> None:
    tokens.loc[0, "logprob"] = math.nan
    assert math.isnan(metrics.perplexity(tokens)) and math.isnan(metrics.mean_logprob(tokens))
    for missing in (None, math.nan, pd.NA):
        for metric in ALL:
            values = pd.Series([0.5, missing], dtype=object)
            columns = ("logprob", "sampling_logprob", "entropy", "sampling_entropy", "confidence", "correct", "p", "q")
            frame = pd.DataFrame(dict.fromkeys((*columns, "token_id", "text"), values)).assign(bytes=values)
            assert math.isnan(metric(frame)), metric.__name__


def test_a_part_of_a_law_is_refused() -> None:
    with pytest.raises(RequestError, match="reads a whole distribution, and 'logprob' sums to 0.5; take frame"):
        metrics.entropy(pd.DataFrame({"logprob": [math.log(0.5)]}))


def test_the_public_metrics_are_explained() -> None:
    others = {"Metric", "Equivalence", "Similarity", "cosine", "normalised", "rouge_l", "token_f1", "jaccard"}
    others |= {"conformal_threshold"}
    functions = [getattr(metrics, name) for name in metrics.__all__ if name not in others]
    assert len(functions) == 27 and all(found.__doc__ and "Reads" in found.__doc__ for found in functions)
    # Every metric that is not a mean of logprobs comes from the literature.
    assert [found.__name__ for found in functions if "Source" not in found.__doc__] == ["mean_logprob"]
