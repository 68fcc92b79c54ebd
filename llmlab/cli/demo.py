"""What `llmlab demo` shows: one answer with its figures, and one question asked at two temperatures."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from llmlab.lab.lab import Lab
from llmlab.results.next_token import NextToken
from llmlab.results.result import Result

STORY = "Tell me a short story."
QUESTION = "Name an animal."
COOL, WARM = 0.3, 1.5
DRAWS = 32


class Demo(NamedTuple):
    """The demo's answers. Seconds are wall-clock, from the request to its result."""

    story: Result
    seconds: float  #: with every program that it needed compiled on the way
    seconds_again: float  #: the same request once more
    same: bool  #: whether it gave the same tokens, as the same seed must
    law: NextToken  #: of the question's first token
    cool: Result  #: `DRAWS` answers to the question at `COOL`
    warm: Result  #: and at `WARM`, with the same noise


def run(lab: Lab, *, seed: int) -> Demo:
    """Ask the model everything that the demo shows."""
    fields: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": seed, "max_tokens": 80}
    start = time.perf_counter()
    first = lab.chat(STORY, **fields)
    middle = time.perf_counter()
    story = lab.chat(STORY, **fields)  # shown is the second: its speed is the engine's, without the compiler's
    end = time.perf_counter()
    return Demo(
        story=story,
        seconds=middle - start,
        seconds_again=end - middle,
        same=first.choices[0].tokens.ids.tolist() == story.choices[0].tokens.ids.tolist(),
        law=lab.next_token(QUESTION),
        cool=lab.chat(QUESTION, temperature=COOL, n=DRAWS, seed=seed, max_tokens=16),
        warm=lab.chat(QUESTION, temperature=WARM, n=DRAWS, seed=seed, max_tokens=16),
    )


def most_open(result: Result) -> int:
    """The position at which the first choice's raw law had the largest entropy."""
    return int(result.choices[0].tokens.entropy.argmax())


def counts(result: Result) -> Counter[str]:
    """How often each whole answer came."""
    return Counter(text.strip() for text in result.texts)


def picture(demo: Demo, path: Path) -> Path:
    """Write the demo's three plots as one PNG: the trace, the most open position, and the law under temperatures."""
    # Without pyplot: no window system is asked for, and no figure stays behind.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 6), width_ratios=(4, 7))
    trace, left, right = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    demo.story.plot_logprobs(ax=trace)
    demo.story.plot_top_logprobs(most_open(demo.story), ax=left)
    demo.law.plot_temperatures([COOL, 0.7, 1.0, WARM], top=10, top_k=8, top_p=0.9, min_p=0.05, ax=right)
    right.set_xlabel(f"first token of the answer to “{QUESTION}”, most likely first")
    figure.savefig(path, dpi=120)
    return path
