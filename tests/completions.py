"""Synthetic completions whose figures are exact, for tests that need no engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from llmlab.protocol.completion import Choice, Completion, Timing, Tokens
from llmlab.protocol.request import ChatRequest

#: A vocabulary with everything that is hard to show. Its control tokens have no bytes.
VOCABULARY: tuple[bytes | None, ...] = (
    b"Once", b" upon", b" a", b" time", b",", b" there", b" lived", b" fox", b" cat", b".",
    b"\n", b"\n\n", b" ", b"   ", b"\t", b"\r\n", b"<script>", b"alert('x')", b"</script>", b"&amp;",
    b"\xf0\x9f", b"\xa6\x8a", b"\xe2\x9c", b"\xa8", "é".encode(), "中".encode(), "🦊".encode(), b"\xff", b'"', b"$x_1$",
    b"<E2>", "\u200d".encode(), "·".encode(), b"\\n", b"<think>", b"</think>", b"", None, None, b" end ",
)  # fmt: skip
NAMES = {37: "<|im_end|>", 38: "<|endoftext|>"}
END = 37


def make_tokens(
    ids: Sequence[int],
    *,
    segment: Sequence[str] | None = None,
    alternatives: int = 20,
    temperature: float = 0.7,
    top_k: int = 6,
    key: int = 0,
) -> Tokens:
    """Tokens as if sampled from random distributions, with every value computed from those in float64."""
    T, V = len(ids), len(VOCABULARY)
    rng = np.random.default_rng(key)
    logits = rng.normal(0.0, 1.5, (T, V))
    # Decreed tokens are likely for the most part; every fourth is a surprise.
    for t, i in enumerate(ids):
        logits[t, i] = logits[t].max() + (-4.0 if t % 4 == 3 else rng.uniform(-1.0, 3.0))
    raw = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-raw, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)
    drawn = np.where(
        (rank < top_k) | (np.arange(V) == np.array(ids, int).reshape(-1, 1)), logits / temperature, -np.inf
    )
    sampling = drawn - np.log(np.exp(drawn).sum(-1, keepdims=True))
    at = (np.arange(T), np.array(ids, int))
    others = raw.copy()
    others[at] = -np.inf
    top = order[:, :alternatives]

    def entropy(x: np.ndarray) -> np.ndarray:
        return -np.where(np.isfinite(x), np.exp(x) * np.where(np.isfinite(x), x, 0), 0).sum(-1)

    return Tokens(
        ids=np.array(ids, np.int32),
        bytes=tuple(VOCABULARY[i] for i in ids),
        segment=tuple(segment) if segment is not None else tuple("end" if i == END else "content" for i in ids),
        lead=np.zeros(T, np.int32),
        overhang=np.zeros(T, np.int32),
        logprob=raw[at].astype(np.float32),
        sampling_logprob=sampling[at].astype(np.float32),
        rank=(rank[at] + 1).astype(np.int32),
        entropy=entropy(raw).astype(np.float32),
        sampling_entropy=entropy(sampling).astype(np.float32),
        margin=(raw[at] - others.max(-1, initial=-np.inf)).astype(np.float32),
        kept=np.isfinite(sampling).sum(-1).astype(np.int32),
        top_ids=top.astype(np.int32),
        top_bytes=tuple(tuple(VOCABULARY[i] for i in row) for row in top),
        top_logprob=np.take_along_axis(raw, top, -1).astype(np.float32),
        top_sampling_logprob=np.take_along_axis(sampling, top, -1).astype(np.float32),
    )


def make_completion(*choices: Tokens, finish: str = "stop", seed: int = 7, **fields: Any) -> Completion:
    """A completion of these choices; `fields` go into its request."""
    fields = {"messages": [{"role": "user", "content": "Tell me a <b>story</b>."}], "temperature": 0.7} | fields
    return Completion(
        id="chatcmpl-test",
        created=1_700_000_000,
        model="toy",
        request=ChatRequest(**fields),
        seed=seed,
        prompt_ids=np.arange(5, dtype=np.int32),
        choices=tuple(
            Choice(
                index=k,
                text=b"".join(
                    b for b, s in zip(tokens.bytes, tokens.segment, strict=True) if b and s == "content"
                ).decode("utf-8", "replace"),
                tokens=tokens,
                finish_reason=finish,
            )
            for k, tokens in enumerate(choices)
        ),
        system_fingerprint="fp_test",
        timing=Timing(first_token=0.02, total=0.5),
        control_tokens=NAMES,
    )


STORY = (0, 1, 2, 3, 4, 5, 6, 2, 7, 9, 37)
HARD = (
    16,
    17,
    18,
    19,
    12,
    13,
    14,
    15,
    10,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    31,
    32,
    33,
    36,
    39,
    38,
    11,
    8,
    37,
)


def guessed_story(choices: int = 1) -> Completion:
    """The story, of which two passes of the model gave five tokens and the others one each."""
    guessed = np.array([0, 4, -1, -1, 2, 3, -1, -1, -1, 1, 0], np.int32)
    done = make_completion(*(make_tokens(STORY) for _ in range(choices)))
    return replace(done, choices=tuple(replace(choice, guessed=guessed) for choice in done.choices))


@pytest.fixture(name="make_tokens")
def _make_tokens() -> Callable[..., Tokens]:
    return make_tokens


@pytest.fixture(name="make_completion")
def _make_completion() -> Callable[..., Completion]:
    return make_completion


@pytest.fixture
def story() -> Completion:
    """An ordinary sentence with its end token."""
    return make_completion(make_tokens(STORY))


@pytest.fixture
def hard() -> Completion:
    """Every token of the vocabulary that is hard to show."""
    return make_completion(make_tokens(HARD, key=1))


@pytest.fixture
def assert_nothing_clipped() -> Callable[[Axes], None]:
    """Draws (a missing glyph would warn, and warnings are errors) and looks where every text has come to lie."""
    return _assert_nothing_clipped


def _assert_nothing_clipped(ax: Axes) -> None:
    figure = ax.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    unseen: set[Text] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                unseen |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in unseen:
            box = text.get_window_extent(renderer)
            inside = (box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1)
            # Half a pixel: glyphs are placed between them.
            assert min(inside) > -0.5, (text.get_text(), inside)
