"""How a prompt is cut: nothing lost, little padded, few pieces."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.engine.prefill import PIECES, padded_length, pieces


@pytest.mark.parametrize("sizes", [PIECES[:2], PIECES])
def test_every_token_is_read_once_in_its_place(sizes):
    for count in range(1301):
        ids = np.arange(1, count + 1)
        found = list(pieces(ids, sizes=sizes))
        written = np.concatenate([tokens[0] for _, tokens in found] or [ids])
        assert [start for start, _ in found] == [0, *np.cumsum([tokens.shape[1] for _, tokens in found])][: len(found)]
        assert written[:count].tolist() == ids.tolist() and not written[count:].any()
        assert len(written) == padded_length(count, sizes=sizes)
        assert {tokens.shape for _, tokens in found} <= {(1, size) for size in sizes}


def test_what_is_padded_is_less_than_what_is_there():
    for count in range(33, 1301):
        assert padded_length(count, sizes=PIECES) < 2 * count
        assert len(list(pieces(np.zeros(count), sizes=PIECES))) <= count // 512 + 3


@pytest.mark.parametrize(
    ("count", "cut"),
    [
        (1, [32]),
        (64, [32, 32]),
        (65, [128]),
        (150, [128, 32]),
        (256, [128, 128]),
        (257, [512]),
        (700, [512, 128, 32, 32]),
    ],
)
def test_two_small_pieces_are_better_than_a_large_one(count, cut):
    assert [tokens.shape[1] for _, tokens in pieces(np.zeros(count), sizes=PIECES)] == cut
