"""How alike two texts are, 0 to 1: the similarities that metrics of samples take."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from llmlab.errors import RequestError, short

#: How alike two texts are; see `similarity_matrix`.
Similarity: TypeAlias = Literal["rouge_l", "token_f1", "jaccard"] | Callable[[str, str], float]

_WORD = re.compile(r"[^\W_]+")
#: How far rounding may take a similarity out of [0, 1].
_ROUNDING = 1e-6


def rouge_l(one: str, other: str, *, stem: Callable[[str], str] | None = None) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of words, 0 to 1. Equal texts have 1.

    Words are runs of letters and digits in lower case. The package rouge-score finds the same for English text; with
    its option `use_stemmer`, which lm-polygraph sets, words of more than three letters are stemmed as by
    `stem=nltk.stem.porter.PorterStemmer().stem`.

    Args:
        one: a text.
        other: another text.
        stem: a function from a word to its stem, for words of more than three letters; by default they stay.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
    """
    if one == other:
        return 1.0
    a, b = _words(one, stem), _words(other, stem)
    return _f1(_common_subsequence(a, b), len(a), len(b))


def token_f1(one: str, other: str) -> float:
    """The F1 of the words that two texts share, each as often as both have it, 0 to 1. Equal texts have 1.

    Source: Rajpurkar, Zhang, Lopyrev, Liang 2016, "SQuAD: 100,000+ questions for machine comprehension of text".
    """
    if one == other:
        return 1.0
    a, b = _words(one), _words(other)
    return _f1((Counter(a) & Counter(b)).total(), len(a), len(b))


def jaccard(one: str, other: str) -> float:
    """The words that two texts share among the words that either has, 0 to 1; split at white space, in lower case.

    Equal texts have 1.

    Source: Lin, Trivedi, Sun 2023, "Generating with confidence: uncertainty quantification for black-box large language
    models", section 4.1.
    """
    if one == other:
        return 1.0
    a, b = set(one.lower().split()), set(other.lower().split())
    return len(a & b) / len(a | b) if a | b else 0.0


#: The similarities that have a name.
SIMILARITIES: dict[str, Callable[[str, str], float]] = {"rouge_l": rouge_l, "token_f1": token_f1, "jaccard": jaccard}


def similarity_matrix(texts: Sequence[str], similarity: Similarity) -> np.ndarray:
    """How alike all pairs of texts are, float64 [n, n]: row i, column j is `similarity(texts[i], texts[j])`.

    Args:
        texts: the answers.
        similarity: "rouge_l", "token_f1", "jaccard", or a function of two texts to a number from 0 to 1. It is asked
            for every ordered pair of different texts, and for each text with itself, once.

    Raises:
        RequestError: an unknown name; the function failed, or returned something else than a number from 0 to 1.
    """
    compare = similarity_named(similarity)
    different = list(dict.fromkeys(texts))
    found = np.array([[similar(compare, one, other) for other in different] for one in different])
    number = {text: at for at, text in enumerate(different)}
    at = np.array([number[text] for text in texts], np.int64)
    return found.reshape(len(different), len(different))[np.ix_(at, at)]


def similarity_named(similarity: Similarity) -> Callable[[str, str], float]:
    """The function of a similarity.

    Raises:
        RequestError: it is neither a known name nor a function.
    """
    if isinstance(similarity, str) and similarity in SIMILARITIES:
        return SIMILARITIES[similarity]
    if isinstance(similarity, str) or not callable(similarity):
        raise RequestError(
            f"similarity must be one of {', '.join(SIMILARITIES)} or a function of two texts, got {short(similarity)}",
            param="similarity",
        )
    return similarity


def similar(compare: Callable[[str, str], float], one: str, other: str) -> float:
    """What a similarity says of two texts.

    Raises:
        RequestError: it failed, or returned something else than a number from 0 to 1.
    """
    try:
        found = compare(one, other)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"similarity failed: {type(error).__name__}: {error}", param="similarity") from error
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = np.nan
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise RequestError(f"similarity must return a number from 0 to 1, got {short(found)}", param="similarity")
    return min(max(value, 0.0), 1.0)


def _words(text: str, stem: Callable[[str], str] | None = None) -> list[str]:
    words = _WORD.findall(text.lower())
    return words if stem is None else [stem(word) if len(word) > 3 else word for word in words]


def _f1(shared: int, one: int, other: int) -> float:
    return 2 * shared / (one + other) if shared else 0.0


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for a in one:
        before = 0
        for at, b in enumerate(other, start=1):
            before, row[at] = row[at], before + 1 if a == b else max(row[at], row[at - 1])
    return row[-1]
