"""Which texts are the same answer: the equivalences that metrics of samples take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from llmlab.errors import RequestError, short

#: Which texts are the same answer; see `classes_of`.
Equivalence: TypeAlias = Literal["exact", "normalised"] | Callable[[str, str], bool]

#: Punctuation, except what changes a number: a decimal point, and a minus in front.
_PUNCTUATION = re.compile(r"((?<=\d)\.(?=\d)|(?<!\w)[-−](?=\.?\d))|[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def classes_of(texts: Sequence[str], equivalence: Equivalence) -> np.ndarray:
    """The number of the class of each text, int [n]: from 0, in the order of their first texts.

    A text joins the first class whose first text is equivalent to it. Equal texts are in one class without being
    compared. A function that is not transitive makes classes that depend on the order of the texts.

    Args:
        texts: the answers.
        equivalence: "exact" compares texts without the white space around them. "normalised" also ignores case,
            punctuation and English articles (see `normalised`). A function `(first, text) -> bool` is any other rule;
            for entailment let it ask both directions. `cosine(embed, threshold=...)` makes one of embeddings.

    Raises:
        RequestError: an unknown name; the function failed or returned something else.

    Source: Kuhn, Gal, Farquhar 2023, "Semantic uncertainty", algorithm 1.
    """
    if equivalence == "exact":
        return _numbered([text.strip() for text in texts])
    if equivalence == "normalised":
        return _numbered([normalised(text) for text in texts])
    if not callable(equivalence):
        raise RequestError(
            f"equivalence must be 'exact', 'normalised' or a function of two texts, got {short(equivalence)}",
            param="equivalence",
        )
    found: dict[str, int] = {}
    first: list[str] = []
    for text in texts:
        if text not in found:
            found[text] = next((at for at, one in enumerate(first) if _same(equivalence, one, text)), len(first))
            if found[text] == len(first):
                first.append(text)
    return np.array([found[text] for text in texts], np.int64)


def normalised(text: str) -> str:
    """A text in lower case, without punctuation, the articles a, an, the, and with single spaces.

    A decimal point between digits and a minus in front of a number stay, so that 3.5 and 35, or -5 and 5, differ.

    Source: Rajpurkar, Zhang, Lopyrev, Liang 2016, "SQuAD: 100,000+ questions for machine comprehension of text"; its
    evaluation script removes the punctuation of numbers too.
    """
    without = _PUNCTUATION.sub(lambda match: match[1] or "", text.lower())
    return " ".join(_ARTICLES.sub(" ", without).split())


def cosine(embed: Callable[[list[str]], Any], *, threshold: float | None = None) -> Callable[[str, str], Any]:
    """Returns a function of two texts from their embeddings: a similarity, or with a threshold an equivalence.

        model = sentence_transformers.SentenceTransformer("all-MiniLM-L6-v2")
        metrics.semantic_entropy(frame, equivalence=metrics.cosine(model.encode, threshold=0.9))
        metrics.degree_uncertainty(frame, similarity=metrics.cosine(model.encode))

    Each text is embedded once. A negative cosine counts as a similarity of 0.

    Args:
        embed: a function from a list of texts to their embeddings, numbers [texts, dimensions].
        threshold: two texts are equivalent if their cosine is at least this, -1 to 1.

    Raises:
        RequestError: an argument is of the wrong type or out of range; or, when it is used, an embedding is no vector
            of finite numbers, or is zero.
    """
    if not callable(embed):
        raise RequestError(f"embed must be a function of a list of texts, got {short(embed)}", param="embed")
    number = isinstance(threshold, int | float | np.floating) and not isinstance(threshold, bool)
    if threshold is not None and not (number and -1 <= threshold <= 1):
        raise RequestError(f"threshold must be a number from -1 to 1, got {short(threshold)}", param="threshold")
    known: dict[str, np.ndarray] = {}

    def direction(text: str) -> np.ndarray:
        if text not in known:
            found = np.asarray(embed([text]), np.float64)
            if found.ndim != 2 or len(found) != 1 or not np.isfinite(found).all() or not found.any():
                raise RequestError(
                    f"embed must return finite numbers [texts, dimensions], not all 0; for 1 text it gave "
                    f"{short(found)}",
                    param="embed",
                )
            known[text] = found[0] / np.linalg.norm(found[0])
        return known[text]

    if threshold is None:
        return lambda one, other: min(max(float(direction(one) @ direction(other)), 0.0), 1.0)
    least = float(threshold)
    return lambda one, other: bool(direction(one) @ direction(other) >= least)


def _numbered(keys: Sequence[str]) -> np.ndarray:
    number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


def _same(equivalence: Callable[[str, str], bool], one: str, other: str) -> bool:
    try:
        found = equivalence(one, other)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"equivalence failed: {type(error).__name__}: {error}", param="equivalence") from error
    if not isinstance(found, bool | np.bool_):
        raise RequestError(f"equivalence must return True or False, got {short(found)}", param="equivalence")
    return bool(found)
