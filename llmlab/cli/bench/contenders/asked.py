"""What a contender is asked, and the loop in which it answers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["FIELDS", "Asked", "answer"]

#: The sampling that every contender does.
FIELDS = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}


class Asked(NamedTuple):
    """`rows` answers of `tokens` tokens to one prompt of random ids below `vocab_size`; end tokens end nothing."""

    rows: int
    prompt: int
    tokens: int
    vocab_size: int


def answer(generate: Callable[[Asked], int]) -> None:
    """Answers until there are no more lines. `generate` returns how many tokens it made, all of which are checked."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = Asked(*json.loads(line))
        began = time.perf_counter()
        made = generate(asked)
        took = time.perf_counter() - began
        assert made == asked.rows * asked.tokens, f"{made} tokens, not {asked.rows} x {asked.tokens}"
        sys.stdout.write(f"took {took}\n")
        sys.stdout.flush()
