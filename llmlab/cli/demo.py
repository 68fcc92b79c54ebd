"""The requests of `llmlab demo`: one answer with its token statistics, and one question asked at two temperatures."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from llmlab.lab.lab import Lab
from llmlab.plots.figure import new_figure
from llmlab.results.next_token import NextToken
from llmlab.results.result import Result

STORY = "Tell me a short story."
QUESTION = "Name an animal."
COOL, WARM = 0.3, 1.5
DRAWS = 32


class Demo(NamedTuple):
    """The answers of the demo. Times are wall-clock seconds from the request to its result."""

    story: Result
    seconds: float  #: including the compilation of the programs it needs
    seconds_again: float  #: of the same request, sent again
    same: bool  #: whether it gave the same tokens; the same seed must do so
    first_token: NextToken  #: the distribution of the first token of an answer to the question
    cool: Result  #: `DRAWS` answers to the question at `COOL`
    warm: Result  #: and at `WARM`, with the same noise


def run(lab: Lab, *, seed: int) -> Demo:
    """Send all requests of the demo."""
    fields: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": seed, "max_tokens": 80}
    start = time.perf_counter()
    first = lab.chat(STORY, **fields)
    middle = time.perf_counter()
    story = lab.chat(STORY, **fields)  # the second answer is shown: its time includes no compilation
    end = time.perf_counter()
    return Demo(
        story=story,
        seconds=middle - start,
        seconds_again=end - middle,
        same=first.choices[0].tokens.ids.tolist() == story.choices[0].tokens.ids.tolist(),
        first_token=lab.next_token(QUESTION),
        cool=lab.chat(QUESTION, temperature=COOL, n=DRAWS, seed=seed, max_tokens=16),
        warm=lab.chat(QUESTION, temperature=WARM, n=DRAWS, seed=seed, max_tokens=16),
    )


def most_open(result: Result) -> int:
    """The position in the first choice with the largest entropy of the raw distribution."""
    return int(result.choices[0].tokens.entropy.argmax())


def counts(result: Result) -> Counter[str]:
    """How often each whole answer was given."""
    return Counter(text.strip() for text in result.texts)


def picture(demo: Demo, path: Path) -> Path:
    """Write three plots as one PNG: logprobs, the position with the largest entropy, and several temperatures."""
    figure = new_figure(width=13, height=10.5)
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 6), width_ratios=(4, 7))
    trace, left, right = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    demo.story.plot_logprobs(ax=trace)
    demo.story.plot_top_logprobs(most_open(demo.story), ax=left)
    demo.first_token.plot_temperatures([COOL, 0.7, 1.0, WARM], top=10, top_k=8, top_p=0.9, min_p=0.05, ax=right)
    right.set_xlabel(f"first token of the answer to “{QUESTION}”, most likely first")
    figure.savefig(path, dpi=120)
    return path
