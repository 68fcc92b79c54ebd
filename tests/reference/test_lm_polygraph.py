"""Certainty against lm-polygraph's own estimators, on the same samples.

The package asks for much that its estimators of samples do not need, and another torch. It is installed without that:

    pip install --no-deps lm-polygraph==0.7.0 rouge-score==0.1.2 nltk==3.10.4 absl-py==2.5.1

Its estimators are read file by file, since importing the package imports all of its models.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmlab import certainty, metrics
from llmlab.metrics.equivalence import classes_of
from llmlab.metrics.similarity import similarity_matrix

pytestmark = pytest.mark.reference

INSTALL = "pip install --no-deps lm-polygraph==0.7.0"


class Polygraph:
    """The classes of lm-polygraph, by the names of their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, kind: str) -> Any:
        return getattr(importlib.import_module(f"lm_polygraph.{name}"), kind)


@pytest.fixture(scope="module")
def polygraph() -> Any:
    spec = importlib.util.find_spec("lm_polygraph")
    if spec is None:
        pytest.skip(f"lm-polygraph is not installed: {INSTALL}")
    folder = Path(str(spec.origin)).parent
    # Packages without their own __init__, which would import every model; and the one function that is asked of utils.
    stubs = {
        name: types.ModuleType(name) for name in ("lm_polygraph", "lm_polygraph.utils", "lm_polygraph.utils.common")
    }
    stubs |= {f"lm_polygraph.{room}": types.ModuleType(room) for room in ("estimators", "ue_metrics")}
    for name, stub in stubs.items():
        stub.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
    stubs["lm_polygraph.utils.common"].polygraph_module_init = lambda init: init  # type: ignore[attr-defined]
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "lm_polygraph"}
    sys.modules.update(stubs)
    yield Polygraph(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_polygraph"]:
        del sys.modules[name]
    sys.modules.update(before)


WORDS = ["the", "cat", "Cats", "sat", "running", "runs", "on", "a", "mat.", "Paris", "2,000", "it's"]


@pytest.fixture(scope="module")
def prompts() -> list[pd.DataFrame]:
    """Eight prompts with seven samples each, some of them equal."""
    rng = np.random.default_rng(17)
    found = []
    for _ in range(8):
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(4)]
        chosen = rng.choice(4, 7)
        logprobs, tokens = -rng.exponential(3, 4), rng.integers(1, 9, 4)
        found.append(
            pd.DataFrame(
                {"text": [texts[at] for at in chosen], "sampling_logprob": logprobs[chosen], "tokens": tokens[chosen]}
            )
        )
    return found


def lists(prompts: list[pd.DataFrame], column: str) -> list[list[Any]]:
    return [frame[column].tolist() for frame in prompts]


def alike(one: str, other: str) -> bool:
    return set(one.lower()) & set("aeiou") == set(other.lower()) & set("aeiou")


def grouped(prompts: list[pd.DataFrame]) -> dict[str, Any]:
    sample_to_class, class_to_sample = {}, defaultdict(list)
    for at, frame in enumerate(prompts):
        classes = classes_of(frame["text"].tolist(), alike)
        sample_to_class[at] = dict(enumerate(classes.tolist()))
        class_to_sample[at] = [np.flatnonzero(classes == one).tolist() for one in range(classes.max() + 1)]
    return {"sample_to_class": sample_to_class, "class_to_sample": class_to_sample}


def test_semantic_entropy(polygraph, prompts) -> None:
    SemanticEntropy = polygraph("estimators.semantic_entropy", "SemanticEntropy")
    stats = {
        "sample_texts": lists(prompts, "text"), "sample_log_probs": lists(prompts, "sampling_logprob"),
        "semantic_classes_entail": grouped(prompts),
    }  # fmt: skip
    for unique in (False, True):
        expected = SemanticEntropy(use_unique_responses=unique)(stats)
        found = [metrics.semantic_entropy(frame, equivalence=alike, distinct=unique) for frame in prompts]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    expected = SemanticEntropy(class_probability_estimation="frequency")(stats)
    found = [metrics.semantic_entropy(frame, equivalence=alike, estimate="discrete") for frame in prompts]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_entropies_of_sequences(polygraph, prompts) -> None:
    stats = {
        "sample_log_probs": lists(prompts, "sampling_logprob"),
        "sample_tokens": [[[0] * count for count in counts] for counts in lists(prompts, "tokens")],
    }
    expected = polygraph("estimators.monte_carlo_sequence_entropy", "MonteCarloSequenceEntropy")()(stats)
    np.testing.assert_allclose([metrics.predictive_entropy(frame) for frame in prompts], expected)
    kind = polygraph("estimators.monte_carlo_normalized_sequence_entropy", "MonteCarloNormalizedSequenceEntropy")
    found = [metrics.predictive_entropy(frame, length_normalised=True) for frame in prompts]
    np.testing.assert_allclose(found, kind()(stats))


def test_lexical_similarity(polygraph, prompts) -> None:
    pytest.importorskip("rouge_score")
    stem = pytest.importorskip("nltk.stem.porter").PorterStemmer().stem
    LexicalSimilarity = polygraph("estimators.lexical_similarity", "LexicalSimilarity")
    expected = LexicalSimilarity("rougeL")({"sample_texts": lists(prompts, "text")})
    found = [
        metrics.lexical_similarity(frame, similarity=lambda a, b: metrics.rouge_l(a, b, stem=stem)) for frame in prompts
    ]
    np.testing.assert_allclose(found, -expected, rtol=1e-12)
    expected = LexicalSimilarity("rouge1")({"sample_texts": lists(prompts, "text")})
    stemmed = [frame.assign(text=[_stemmed(text, stem) for text in frame["text"]]) for frame in prompts]
    found = [metrics.lexical_similarity(frame, similarity="token_f1") for frame in stemmed]
    np.testing.assert_allclose(found, -expected, rtol=1e-12)


def _stemmed(text: str, stem: Any) -> str:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return " ".join(stem(word) if len(word) > 3 else word for word in words)


@pytest.fixture(scope="module")
def similarity() -> Any:
    """A similarity of two texts that is not symmetric."""
    rng, known = np.random.default_rng(4), {}

    def found(one: str, other: str) -> float:
        return known.setdefault((one, other), 1.0 if one == other else float(rng.random()))

    return found


def test_the_graph_of_the_samples(polygraph, prompts, similarity) -> None:
    matrices = np.stack([similarity_matrix(frame["text"].tolist(), similarity) for frame in prompts])
    stats = {"sample_texts": lists(prompts, "text"), "semantic_matrix_entail": matrices}
    EigValLaplacian = polygraph("estimators.eig_val_laplacian", "EigValLaplacian")
    DegMat = polygraph("estimators.deg_mat", "DegMat")
    for score, given in (("NLI_score", similarity), ("Jaccard_score", "jaccard")):
        expected = EigValLaplacian(similarity_score=score)(stats)
        found = [metrics.eigenvalue_laplacian(frame, similarity=given) for frame in prompts]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        expected = DegMat(similarity_score=score)(stats)
        found = [metrics.degree_uncertainty(frame, similarity=given) for frame in prompts]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_sentence_sar(polygraph, prompts, similarity) -> None:
    matrices = np.stack([similarity_matrix(frame["text"].tolist(), similarity) for frame in prompts])
    stats = {"sample_sentence_similarity": matrices, "sample_log_probs": lists(prompts, "sampling_logprob")}
    expected = polygraph("estimators.sentence_sar", "SentenceSAR")()(stats)
    found = [metrics.sentence_sar(frame, similarity=similarity) for frame in prompts]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_token_sar_and_sar(polygraph, similarity) -> None:
    rng = np.random.default_rng(9)
    frames, logprobs, relevance, sentences = [], [], [], []
    for _ in range(5):
        rows, own, alone, texts = [], [], [], []
        for choice in range(4):
            pieces = [f" {word}".encode() for word in rng.choice(WORDS, rng.integers(1, 6))]
            values = -rng.exponential(1, len(pieces))
            rows += [(choice, piece, value) for piece, value in zip(pieces, values, strict=True)]
            whole = b"".join(pieces).decode()
            without = [b"".join(pieces[:at] + pieces[at + 1 :]).decode() for at in range(len(pieces))]
            own.append(values)
            alone.append(np.array([similarity(whole, text) for text in without] if len(pieces) > 1 else [0.5]))
            texts.append(whole)
        frames.append(pd.DataFrame(rows, columns=["choice", "bytes", "sampling_logprob"]))
        logprobs.append(own)
        relevance.append(alone)
        sentences.append(similarity_matrix(texts, similarity))
    stats = {
        "sample_sentence_similarity": sentences, "sample_log_likelihoods": logprobs,
        "sample_token_similarity": relevance,
        "greedy_log_likelihoods": [own[0] for own in logprobs], "token_similarity": [own[0] for own in relevance],
    }  # fmt: skip
    expected = polygraph("estimators.sar", "SAR")()(stats)
    np.testing.assert_allclose([metrics.sar(frame, similarity=similarity) for frame in frames], expected, rtol=1e-10)
    expected = polygraph("estimators.token_sar", "TokenSAR")()(stats)
    first = [frame[frame["choice"] == 0] for frame in frames]
    np.testing.assert_allclose([metrics.token_sar(frame, similarity=similarity) for frame in first], expected)


def test_the_answer_by_itself(polygraph, prompts) -> None:
    """Of a single sample: maximum sequence probability, and what lm-polygraph calls perplexity."""
    values = [[-0.5, -1.5, -0.1], [-2.0]]
    stats = {"greedy_log_likelihoods": values}
    samples = pd.DataFrame(
        {"prompt": [0, 1], "text": ["a", "b"], "tokens": [3, 1], "sampling_logprob": [sum(own) for own in values]}
    )
    found = certainty.measure(samples).frame()
    expected = polygraph("estimators.max_probability", "MaximumSequenceProbability")()(stats)
    np.testing.assert_allclose(-found["answer_logprob"], expected)
    # The logarithm of the perplexity.
    expected = polygraph("estimators.perplexity", "Perplexity")()(stats)
    np.testing.assert_allclose(np.log(found["answer_perplexity"]), expected)


def test_metrics_of_scores(polygraph) -> None:
    rng = np.random.default_rng(2)
    Area = polygraph("ue_metrics.pred_rej_area", "PredictionRejectionArea")
    normalised = polygraph("ue_metrics.ue_metric", "normalize_metric")
    at_random = polygraph("ue_metrics.ue_metric", "get_random_scores")
    for share in (1.0, 0.5):
        area = Area(max_rejection=share)
        for kind in ("flags", "qualities"):
            score = rng.normal(size=60)
            quality = rng.random(60) if kind == "qualities" else (rng.random(60) < 0.6).astype(float)
            frame = pd.DataFrame({"u": score, "correct": quality})
            found = metrics.prediction_rejection_ratio(frame, uncertainty="u", max_rejection=share)
            own, best = area(score, quality), area(-quality, quality)
            # Its random order is the mean of 1,000; ours is the expectation, which half of the answers have too.
            assert found == pytest.approx(normalised(own, best, area_of_chance(quality)), abs=1e-9)
            assert found == pytest.approx(normalised(own, best, at_random(area, quality)), abs=0.05)
    pytest.importorskip("sklearn")
    correct = rng.random(80) < 0.5
    said = np.clip(correct * 0.3 + rng.random(80) * 0.7, 0, 1)
    frame = pd.DataFrame({"confidence": said, "correct": correct})
    assert metrics.auroc(frame, confidence="confidence") == pytest.approx(
        polygraph("ue_metrics.roc_auc", "ROCAUC")()(said, correct)
    )
    ece = polygraph("ue_metrics.ece", "ECE")(n_bins=10)
    assert metrics.expected_calibration_error(frame) == pytest.approx(ece(-said, correct))


def area_of_chance(quality: np.ndarray) -> float:
    """The mean quality, between 0 and 1 as lm-polygraph has it: what a random order keeps at every number."""
    return float((quality.mean() - quality.min()) / np.ptp(quality))
