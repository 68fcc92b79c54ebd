"""A vocabulary of bytes and of tokens that span several JSON tokens, and random walks without a model."""

from __future__ import annotations

import numpy as np

from llmlab.grammar.matcher import Grammar, Matcher, fill_masks
from llmlab.grammar.vocabulary import Vocabulary

PIECES = (
    b'", "', b'": ', b'": "', b'{"', b'"}', b"}}", b"],", b"true", b"null", b"12", b"00", b"e9", b"\n  ", b"\xc3",
    b"</", b"think", b">\n", b"<tool_call>", b"1e999", b"  ", b"\n\n",
)  # fmt: skip
#: Control tokens; the first ends a generation.
CONTROLS = ("<|end|>", "[CALLS]", "<|pad|>")
END = 256 + len(PIECES)
SIZE = END + len(CONTROLS) + 5  # the model's logits are wider than the tokenizer


def vocabulary(*, ends: tuple[int, ...] = (END,)) -> Vocabulary:
    tokens: list[bytes | None] = [bytes([i]) for i in range(256)]
    tokens += [*PIECES, *[None] * len(CONTROLS)]
    return Vocabulary(tokens, size=SIZE, ends=ends, controls={name: END + i for i, name in enumerate(CONTROLS)})


def allowed(matcher: Matcher) -> list[int]:
    """The ids of the tokens that may come next."""
    mask = np.zeros((1, matcher.vocabulary.words), np.uint32)
    fill_masks([matcher], mask)
    return np.flatnonzero(np.unpackbits(mask[0].view(np.uint8), bitorder="little")).tolist()


def walk(grammar: Grammar, rng: np.random.Generator, *, most: int = 250, begin: bytes = b"") -> bytes | None:
    """A random text that the grammar allows and that begins with `begin`; None if `most` tokens do not complete one.

    Quotes, brackets and the end token are sampled more often than other tokens.
    """
    matcher, text = grammar.matcher(), begin
    for byte in begin:
        matcher.advance(byte)
    for _ in range(most):
        choices = allowed(matcher)
        assert len(choices), (text, matcher.error)
        weight = np.where(np.isin(choices, [*b'"}]', END]), 8.0, 1.0)
        token = int(rng.choice(choices, p=weight / weight.sum()))
        if token in grammar.vocabulary.ends:
            return text
        text += spelled(token)
        matcher.advance(token)
        assert matcher.error is None, text
    return None


def spelled(token: int) -> bytes:
    if token < 256:
        return bytes([token])
    return PIECES[token - 256] if token < END else CONTROLS[token - END].encode()


def takes(grammar: Grammar, text: str | bytes | list[int]) -> bool:
    """Whether a text, byte by byte, is a whole by the grammar."""
    matcher = grammar.matcher()
    for token in text.encode() if isinstance(text, str) else text:
        matcher.advance(token)
    return matcher.error is None and matcher.complete
