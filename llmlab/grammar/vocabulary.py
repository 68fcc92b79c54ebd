"""A model's vocabulary in the form that llguidance reads, and the grammars compiled for it. Built on first use."""

from __future__ import annotations

import json
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, UInt32

from llmlab.errors import cut

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarError", "NothingValidError", "Vocabulary", "error_line", "error_text"]

#: How many tokens a new grammar is tried with, and how many grammars are remembered as tried.
TRIED, KEPT_TRIED = 24, 4096
#: How many compiled grammars are cached: the turns of a chat tend to use the same tools and the same schema.
KEPT = 16


class GrammarError(ValueError):
    """A grammar that cannot be compiled.

    Args:
        message: what was wrong, with the keyword to blame.
        path: the place in the schema as a JSON pointer ("#/properties/a"); empty if no single place is to blame.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        # Both may contain a pattern or a name of any length.
        super().__init__(f"{cut(path)}: {cut(message)}" if path else cut(message))
        self.message = message
        self.path = path


class NothingValidError(GrammarError):
    """A schema under which no value is valid, such as an empty range."""


def error_text(message: str) -> str:
    """llguidance's message about a grammar, as shown to users: the message itself, or one line of it after a panic."""
    message = message.replace("<non-verbose/>", "")
    first = message.strip().partition("\n")[0]
    if first.startswith("panic"):
        return f"the grammar is too large, or llguidance failed on it ({first.removeprefix('panic:').strip()})"
    return message.strip()


def error_line(message: str) -> str:
    """The line of llguidance's message about a JSON schema that says what is wrong.

    That is the first line, which names the property, except where an expression cannot be read: its error shows the
    expression first and the reason last. Further lines of other errors only say where llguidance found the error.
    """
    lines = error_text(message).splitlines()
    return lines[-1].removeprefix("error: ") if lines[0].startswith("regex parse error") else lines[0]


class Vocabulary:
    """The tokens over which masks are computed. With a large vocabulary the first call of `view` takes 0.5 to 1.8 s.

    Args:
        token_bytes: the exact bytes of every token, None for control tokens.
        size: V, the width of the model's logits. Ids that are no token are never allowed.
        ends: the tokens that end a generation.
        controls: the ids of the control tokens that grammars may name, by name.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        *,
        size: int,
        ends: Sequence[int] = (),
        controls: Mapping[str, int] | None = None,
    ) -> None:
        self.size = size
        self.ends = tuple(ends)
        self.controls = dict(controls or {})
        #: The bytes of every token id, None for control tokens and for ids that are no token.
        self.token_bytes = (*token_bytes[:size], *[None] * (size - len(token_bytes)))
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._tried: OrderedDict[str, None] = OrderedDict()
        first: dict[bytes, int] = {}
        #: Tokens with the same bytes as an earlier token (as SentencePiece's byte tokens), mapped to that token.
        self._aliases = {
            token: first.setdefault(data, token)
            for token, data in enumerate(self.token_bytes)
            if data and token not in self.ends and first.setdefault(data, token) != token
        }

    @property
    def words(self) -> int:
        """W = ceil(V / 32), the number of words of a packed mask."""
        return -(-self.size // 32)

    @cached_property
    def end_mask(self) -> UInt32[np.ndarray, " W"]:
        """The end tokens as a packed mask."""
        mask = np.zeros(self.words, np.uint32)
        for token in self.ends:
            mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask

    @cached_property
    def alias_bits(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids of tokens with the same bytes as an earlier token, and the ids of those earlier tokens."""
        return np.array(list(self._aliases), np.int64), np.array(list(self._aliases.values()), np.int64)

    def canonical(self, token: int) -> int:
        """The first token with the same bytes as this one."""
        return self._aliases.get(token, token)

    def starting_with(self, prefix: bytes) -> Int64[np.ndarray, " T"]:
        """The ids of the tokens whose bytes begin with `prefix`, which is not empty."""
        tokens, ids = self._sorted
        stem = prefix.rstrip(b"\xff")
        end = bisect_left(tokens, stem[:-1] + bytes([stem[-1] + 1])) if stem else len(tokens)
        return ids[bisect_left(tokens, prefix) : end]

    @cached_property
    def _sorted(self) -> tuple[list[bytes], Int64[np.ndarray, " T"]]:
        """The bytes of the tokens that have some, in order, and their ids."""
        pairs = sorted((data, token) for token, data in enumerate(self.token_bytes) if data)
        return [data for data, _ in pairs], np.array([token for _, token in pairs], np.int64)

    def view(self) -> LLTokenizer:
        """The vocabulary as an llguidance tokenizer, built on the first call; safe to call from several threads."""
        with self._lock:
            return self._view

    @cached_property
    def _view(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        # llguidance needs an end token. A model without one gets an id past the vocabulary, which is never sampled.
        ends = self.ends or (self.size,)
        tokens, special = [], []
        for token in range(max(self.size, max(ends) + 1)):
            data = self.token_bytes[token] if token < self.size else None
            if not data or token in ends or token in self._aliases:
                data = f"<|id {token}|>".encode()
                special.append(token)
            tokens.append(data)
        wrapper = TokenizerWrapper(_Tokens(tokens, special, ends[0]))
        return LLTokenizer(wrapper, n_vocab=len(tokens), eos_token=list(ends))

    def compiled(self, grammar: str, others: Mapping[str, str] | None = None) -> LLMatcher:
        """llguidance's matcher at the start of a grammar, from a cache; copy it, do not advance it.

        Args:
            grammar: the grammar in llguidance's dialect of Lark.
            others: further grammars that it refers to, by the name that follows the sign "@".

        Raises:
            GrammarError: the grammar does not compile.
        """
        from llguidance import LLMatcher, LLParserLimits

        source = _source(grammar, others or {})
        view = self.view()
        with self._lock:
            found = self._kept.pop(source, None)
        if found is None:
            limits = LLParserLimits(verbose_errors=False)
            found = LLMatcher(view, source, log_level=0, limits=limits)
            if found.is_error():
                raise GrammarError(error_text(found.get_error()))
        with self._lock:
            self._kept[source] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def require_usable(self, grammar: str, others: Mapping[str, str] | None = None) -> None:
        """Raise GrammarError if llguidance fails on the first tokens of a grammar, or allows none.

        A regular expression can be too large for llguidance in a way that only shows once masks are computed. This
        method computes the masks along a text of TRIED tokens; the result is cached.
        """
        source = _source(grammar, others or {})
        with self._lock:
            known = source in self._tried
        if not known:
            _follow(self.compiled(grammar, others).deep_copy(), np.random.default_rng(0))
            with self._lock:
                self._tried[source] = None
                while len(self._tried) > KEPT_TRIED:
                    self._tried.popitem(last=False)


def _source(grammar: str, others: Mapping[str, str]) -> str:
    """A grammar and those that it refers to, as llguidance takes them."""
    if not others:
        return grammar
    named = [{"name": name, "lark_grammar": source} for name, source in others.items()]
    return json.dumps({"grammars": [{"lark_grammar": grammar}, *named]}, ensure_ascii=False)


def _follow(matcher: LLMatcher, rng: np.random.Generator) -> None:
    """Advance a matcher by up to TRIED random tokens; raise GrammarError if it fails or comes to a dead end."""
    for _ in range(TRIED):
        mask = matcher.compute_bitmask()
        stuck = "NoExtension" in matcher.get_error()  # so llguidance says that no byte can come next
        if matcher.is_error() and not stuck:
            raise GrammarError(error_text(matcher.get_error()))
        allowed = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little"))
        if matcher.is_accepting():
            return
        if stuck or not len(allowed):
            raise GrammarError("no text of this vocabulary's tokens follows it")
        matcher.consume_token(int(rng.choice(allowed)))


class _Tokens:
    """The tokenizer interface that llguidance requires. It tokenizes only forced text, which grammars here turn off."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end

    def __call__(self, text: Any) -> list[int]:
        return []
