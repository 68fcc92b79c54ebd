"""Metrics of samples against tables made by hand, brute force and NumPy in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import eigvalsh

from llmlab import metrics
from llmlab.errors import RequestError
from llmlab.metrics.equivalence import classes_of
from llmlab.metrics.similarity import similarity_matrix


@pytest.fixture
def samples() -> pd.DataFrame:
    """Five samples; the first, second and fourth mean the same."""
    return pd.DataFrame(
        {
            "text": ["Paris", "the paris.", "Lyon", "Paris", "Rome"],
            "sampling_logprob": np.log([0.4, 0.1, 0.2, 0.4, 0.05]),
            "tokens": [2, 4, 2, 2, 1],
        }
    )


def test_semantic_entropy_by_hand(samples) -> None:
    found = {
        estimate: metrics.semantic_entropy(samples, equivalence="normalised", estimate=estimate)
        for estimate in ("monte_carlo", "weighted", "discrete")
    }
    # The classes have 0.4 + 0.1, 0.2 and 0.05: a text that was sampled twice counts once.
    assert found["monte_carlo"] == pytest.approx(-(3 * math.log(0.5) + math.log(0.2) + math.log(0.05)) / 5)
    share = np.array([0.5, 0.2, 0.05]) / 0.75
    assert found["weighted"] == pytest.approx(-(share * np.log(share)).sum())
    assert found["discrete"] == pytest.approx(-(0.6 * math.log(0.6) + 2 * 0.2 * math.log(0.2)))
    each_time = metrics.semantic_entropy(samples, equivalence="normalised", distinct=False)
    assert each_time == pytest.approx(-(3 * math.log(0.9) + math.log(0.2) + math.log(0.05)) / 5)
    # Per token: 0.4 ** (1/2), 0.1 ** (1/4), 0.2 ** (1/2), 0.05.
    per_token = metrics.semantic_entropy(samples, equivalence="normalised", length_normalised=True)
    same = math.sqrt(0.4) + 0.1**0.25
    assert per_token == pytest.approx(-(3 * math.log(same) + math.log(0.2) / 2 + math.log(0.05)) / 5)
    # Without the equivalence, each text is a meaning.
    assert metrics.semantic_entropy(samples) == pytest.approx(metrics.predictive_entropy(samples))
    certain = metrics.semantic_entropy(samples, equivalence=lambda a, b: True, estimate="weighted")
    assert certain == 0 and not np.signbit(certain)


def test_semantic_entropy_of_many_samples_is_the_entropy_of_the_meanings() -> None:
    rng = np.random.default_rng(5)
    texts = np.array(["yes", "Yes", "no", "No", "maybe"])
    prob = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    drawn = rng.choice(5, 4000, p=prob)
    frame = pd.DataFrame({"text": texts[drawn], "sampling_logprob": np.log(prob[drawn]), "tokens": 1})
    truth = np.array([0.55, 0.35, 0.1])
    entropy = -(truth * np.log(truth)).sum()
    error = math.sqrt((truth * np.log(truth) ** 2).sum() - entropy**2) / math.sqrt(4000)
    assert metrics.semantic_entropy(frame, equivalence="normalised") == pytest.approx(entropy, abs=4 * error)
    assert metrics.semantic_entropy(frame, equivalence="normalised", estimate="weighted") == pytest.approx(entropy)
    discrete = metrics.semantic_entropy(frame, equivalence="normalised", estimate="discrete")
    assert discrete == pytest.approx(entropy, abs=4 * error)
    assert metrics.majority_share(frame, equivalence="normalised") == pytest.approx(0.55, abs=0.03)


def test_predictive_entropy_by_hand(samples) -> None:
    logs = np.log([0.4, 0.1, 0.2, 0.4, 0.05])
    assert metrics.predictive_entropy(samples) == pytest.approx(-logs.mean())
    per_token = metrics.predictive_entropy(samples, length_normalised=True)
    assert per_token == pytest.approx(-(logs / [2, 4, 2, 2, 1]).mean())
    empty = pd.concat([samples, pd.DataFrame({"text": [""], "sampling_logprob": [0.0], "tokens": [0]})])
    assert metrics.predictive_entropy(empty, length_normalised=True) == pytest.approx(per_token)
    # A frame of tokens gives the same.
    tokens = pd.DataFrame({"choice": [0, 0, 1], "sampling_logprob": [-1.0, -2.0, -4.0]})
    whole = pd.DataFrame({"text": ["a", "b"], "sampling_logprob": [-3.0, -4.0], "tokens": [2, 1]})
    assert metrics.predictive_entropy(whole, length_normalised=True) == metrics.length_normalised_entropy(tokens)


def test_equivalences(samples) -> None:
    texts = ["3.5", "35", "-5", "5", "The  Cat!", "a cat", " cat", "cat"]
    assert classes_of(texts, "exact").tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert classes_of(texts, "normalised").tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert [metrics.normalised(text) for text in ("10,000 km", "An $x_1$", "−2.50", "e.g. it's")] == [
        "10000 km", "x1", "−2.50", "eg its",
    ]  # fmt: skip
    # A class is known by its first text: 3 is near 2, and not near 1.
    near = lambda a, b: abs(int(a) - int(b)) <= 1  # noqa: E731
    assert classes_of(["1", "2", "3", "2"], near).tolist() == [0, 0, 1, 0]
    asked = []
    classes_of(["a", "a", "b"], lambda a, b: bool(asked.append((a, b))))
    assert asked == [("a", "b")]
    vectors = {"north": [0, 2.0], "up": [0.1, 1], "east": [3, 0], "down": [0, -1]}
    embed = lambda texts: np.array([vectors[text] for text in texts])  # noqa: E731
    assert classes_of(list(vectors), metrics.cosine(embed, threshold=0.9)).tolist() == [0, 0, 1, 2]
    alike = metrics.cosine(embed)
    assert alike("north", "up") == pytest.approx(1 / math.sqrt(1.01)) and alike("north", "down") == 0
    assert metrics.degree_uncertainty(samples.assign(text="north"), similarity=alike) == pytest.approx(0)


def longest(a: str, b: str) -> int:
    """The longest common subsequence, by all subsequences."""
    subsequences = ({c for n in range(len(t) + 1) for c in itertools.combinations(t, n)} for t in (a, b))
    return max(len(c) for c in set.intersection(*subsequences))


def test_similarities_by_hand_and_by_brute_force() -> None:
    one, other = "The cat sat on the mat.", "the cat: on mat"
    assert metrics.rouge_l(one, other) == pytest.approx(2 * 4 / (6 + 4))
    assert metrics.token_f1(one, other) == pytest.approx(2 * 4 / (6 + 4))
    assert metrics.token_f1("mat cat the on", one) == pytest.approx(0.8)
    assert metrics.rouge_l("mat cat the on", one) == pytest.approx(2 * 2 / 10)
    assert metrics.jaccard(one, "the cat sat") == pytest.approx(3 / 5)  # "mat." is a word there
    assert metrics.rouge_l("walking dogs", "walked dog", stem=lambda word: word[:4]) == pytest.approx(0.5)
    for similarity in (metrics.rouge_l, metrics.token_f1, metrics.jaccard):
        assert similarity("", "") == similarity("!?", "!?") == 1 and similarity("", "a b") == 0
    rng = np.random.default_rng(3)
    for _ in range(60):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(1, 8))) for _ in range(2))
        found = metrics.rouge_l(" ".join(a), " ".join(b))
        assert found == pytest.approx(1.0 if a == b else 2 * longest(a, b) / (len(a) + len(b)))


def test_lexical_similarity_is_a_mean_over_pairs(samples) -> None:
    pairs = list(itertools.combinations(samples["text"], 2))
    for name, similarity in (("rouge_l", metrics.rouge_l), ("token_f1", metrics.token_f1)):
        found = metrics.lexical_similarity(samples, similarity=name)
        assert found == pytest.approx(np.mean([similarity(a, b) for a, b in pairs]))
    assert math.isnan(metrics.lexical_similarity(samples.head(1)))


def test_the_graph_of_the_samples() -> None:
    def frame(*texts: str) -> pd.DataFrame:
        return pd.DataFrame({"text": texts})

    assert metrics.eigenvalue_laplacian(frame("a", "b", "c")) == pytest.approx(3)
    assert metrics.eigenvalue_laplacian(frame("a", "a", "a")) == pytest.approx(1)
    assert metrics.eigenvalue_laplacian(frame("a", "b", "a", "b", "b")) == pytest.approx(2)
    assert metrics.degree_uncertainty(frame("a", "b", "a", "b")) == pytest.approx(0.5)
    # Against the Laplacian as the paper writes it.
    rng = np.random.default_rng(2)
    values = {(a, b): 1.0 if a == b else rng.random() for a in "abcdef" for b in "abcdef"}
    found = frame(*"abcdeffa")
    similarity = lambda a, b: values[a, b]  # noqa: E731
    W = similarity_matrix(list("abcdeffa"), similarity)
    assert W[0, 1] == values["a", "b"] and W[1, 0] == values["b", "a"] and W[0, 7] == 1
    W = (W + W.T) / 2
    D = np.diag(1 / np.sqrt(W.sum(1)))
    eigenvalues = eigvalsh(np.eye(8) - D @ W @ D)
    laplacian = metrics.eigenvalue_laplacian(found, similarity=similarity)
    assert laplacian == pytest.approx(np.maximum(0, 1 - eigenvalues).sum(), abs=1e-12)
    assert metrics.degree_uncertainty(found, similarity=similarity) == pytest.approx((8 - W.sum(1)).sum() / 64)


def test_sar_by_hand() -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "sampling_logprob": np.log([0.5, 0.25, 0.2])})
    alike = {"ab": 0.8, "ac": 0.1, "bc": 0.3, "ba": 0.6, "ca": 0.1, "cb": 0.3, "aa": 1.0, "bb": 1.0, "cc": 1.0}
    similarity = lambda a, b: alike[a + b]  # noqa: E731
    expected = [
        -math.log(0.5 + (0.8 * 0.25 + 0.1 * 0.2) / 0.1),
        -math.log(0.25 + (0.6 * 0.5 + 0.3 * 0.2) / 0.1),
        -math.log(0.2 + (0.1 * 0.5 + 0.3 * 0.25) / 0.1),
    ]
    found = metrics.sentence_sar(frame, similarity=similarity, temperature=0.1)
    assert found == pytest.approx(np.mean(expected))
    assert metrics.sentence_sar(frame.head(1), similarity=similarity) == pytest.approx(-math.log(0.5))
    # Far below the least float64.
    far = metrics.sentence_sar(frame.assign(sampling_logprob=-2000.0), similarity=similarity, temperature=0.1)
    weights = np.array([0.9, 0.9, 0.4]) / 0.1
    assert far == pytest.approx(2000 - np.log1p(weights).mean())


def test_token_sar_by_hand() -> None:
    tokens = pd.DataFrame(
        {
            "choice": [0, 0, 0, 1, 2, 2],
            "bytes": [b"The", b" cat", None, b"dog", b"x", b"y"],
            "sampling_logprob": [-1.0, -3.0, -0.5, -2.0, -4.0, -6.0],
        }
    )
    said = {("The cat", " cat"): 0.9, ("The cat", "The"): 0.6, ("xy", "y"): 1.0, ("xy", "x"): 1.0}
    similarity = lambda a, b: 1.0 if a == b else said.get((a, b), 0.5)  # noqa: E731
    # Relevances 0.1, 0.4, and 0 for the control token; one token alone; no relevant token.
    each = [(0.1 * 1 + 0.4 * 3) / 0.5, 2.0, 5.0]
    assert metrics.token_sar(tokens, similarity=similarity) == pytest.approx(np.mean(each))
    assert metrics.token_sar(tokens[tokens["choice"] == 0], similarity=similarity) == pytest.approx(2.6)
    # SAR: exp of minus these take the place of probabilities.
    p = np.exp(-np.array(each))
    S = np.full((3, 3), 0.5) * (1 - np.eye(3))
    expected = -np.log(p + S @ p / 0.001)
    assert metrics.sar(tokens, similarity=similarity) == pytest.approx(expected.mean())
    asked = []

    def watched(a: str, b: str) -> float:
        asked.append((a, b))
        return 0.0

    metrics.token_sar(tokens[tokens["choice"] == 2], similarity=watched, prompt="Q?")
    assert asked == [("Q? xy", "Q? y"), ("Q? xy", "Q? x")]


def fails(*_: object) -> float:
    raise ValueError("no model")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: metrics.semantic_entropy(f, equivalence=lambda a, b: 0.5), "must return True or False, got 0.5"),
        (lambda f: metrics.semantic_entropy(f, equivalence=fails), "equivalence failed: ValueError: no model"),
        (lambda f: metrics.lexical_similarity(f, similarity=lambda a, b: 2), "must return a number from 0 to 1, got 2"),
        (lambda f: metrics.lexical_similarity(f, similarity=lambda a, b: "x"), "must return a number from 0 to 1"),
        (lambda f: metrics.degree_uncertainty(f, similarity=fails), "similarity failed: ValueError: no model"),
        (lambda f: metrics.eigenvalue_laplacian(f, similarity=lambda a, b: 0), "above 0 with itself"),
        (lambda f: metrics.sentence_sar(f, temperature=0), "temperature must be a number above 0, got 0"),
        (lambda f: metrics.sentence_sar(f, logprob="p"), "sentence_sar reads the column 'p', and the frame has text"),
        (lambda f: metrics.token_sar(f), "token_sar reads the column 'bytes'"),
        (lambda f: metrics.cosine(len, threshold=2), "threshold must be a number from -1 to 1, got 2"),
        (lambda f: metrics.degree_uncertainty(f, similarity=metrics.cosine(len)), "embed must return finite numbers"),
    ],
)
def test_what_is_wrong_is_named(samples, call, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        call(samples)
