"""How a prompt is cut: nothing lost, little padded, and longer prompts cut alike as far as they agree."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.engine.prefill import ACCELERATOR_SIZES, SIZES, pieces
from llmlab.engine.scheduler import cache_lengths


@pytest.mark.parametrize("sizes", [SIZES, ACCELERATOR_SIZES, SIZES[:1]])
def test_every_token_is_read_once_in_its_place(sizes):
    for count in range(1301):
        ids = np.arange(1, count + 1, dtype=np.int32)
        found = list(pieces(ids, sizes=sizes))
        assert np.concatenate([piece.ids for piece in found] or [ids]).tolist() == ids.tolist()
        assert [piece.start for piece in found] == [0, *np.cumsum([len(piece.ids) for piece in found])][: len(found)]
        for piece in found:
            assert piece.padded.shape in {(1, size) for size in sizes}
            assert piece.padded[0, : len(piece.ids)].tolist() == piece.ids.tolist()
            assert not piece.padded[0, len(piece.ids) :].any()
        assert all(len(piece.ids) == piece.padded.shape[1] for piece in found[:-1]), "only the last one is padded"


@pytest.mark.parametrize("sizes", [SIZES, ACCELERATOR_SIZES])
def test_they_fit_the_cache_that_holds_the_prompt_and_one_token_more(sizes):
    lengths = cache_lengths(2048)
    for count in range(1, 2047):
        bucket = next(length for length in lengths if length >= count + 1)
        last = list(pieces(np.zeros(count, np.int32), sizes=sizes))[-1]
        assert last.start + last.padded.shape[1] <= bucket


@pytest.mark.parametrize("sizes", [SIZES, ACCELERATOR_SIZES])
def test_a_longer_prompt_has_the_same_pieces(sizes):
    """All whole ones before the largest size's last border, and those after it too while it stays within the next."""

    def cut(count):
        return [(piece.start, piece.padded.shape[1]) for piece in pieces(np.zeros(count, np.int32), sizes=sizes)]

    for count in range(1, 1200, 7):
        for longer in range(count, count + 200, 13):
            border = count // sizes[-1] * sizes[-1]
            end = border + sizes[-1] if longer >= border + sizes[-1] else count // sizes[0] * sizes[0]
            shared = [piece for piece in cut(count) if sum(piece) <= (border if end > count else end)]
            assert cut(longer)[: len(shared)] == shared
            assert sum(size for _, size in shared) >= border


@pytest.mark.parametrize(
    ("count", "cut"), [(1, [32]), (64, [32, 32]), (97, [32] * 4), (150, [128, 32]), (700, [128] * 5 + [32, 32])]
)
def test_large_pieces_come_first(count, cut):
    assert [piece.padded.shape[1] for piece in pieces(np.zeros(count, np.int32), sizes=SIZES)] == cut
