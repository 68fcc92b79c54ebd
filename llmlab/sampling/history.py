"""What a row has seen before its next token, from its token ids."""

from __future__ import annotations

import numpy as np

from llmlab.sampling.params import History

__all__ = ["history_of"]


def history_of(prompt: np.ndarray, made: np.ndarray, *, vocab_size: int) -> History:
    """The `History` of one row as host arrays with a leading dimension of 1.

    Args:
        prompt: the prompt's token ids [L].
        made: the token ids generated after it [T]; the penalties count them.
        vocab_size: V, the width of the logits.
    """
    seen = np.zeros((1, vocab_size), bool)
    seen[0, prompt] = True
    counts = np.bincount(made, minlength=vocab_size).astype(np.int32)[None, :]
    return History(prompt=seen, counts=counts, position=np.array([len(made)], np.int32))
