"""The table of README: each goal beside what the last runs measured. `python -m llmlab.cli.bench.table FILE...`

The files are what `llmlab bench --json` printed, one for each model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["table"]


class _Line(NamedTuple):
    """A line of the table: the work in words, the model, the figures' work and settings, and the goal of each."""

    words: str
    model: str
    work: str
    settings: tuple[str, ...]
    goals: tuple[str, ...]
    share: bool = False  #: whether the share of the ceiling counts, and not the value
    int8: bool = False  #: whether it is of a run with int8 weights


_DEMO, _SMOL, _QWEN = "demo", "smollm2-135m", "qwen2-0.5b"


def _peers(model: str, words: str, rows: int, goals: tuple[str, ...], prompt: int = 64, *, int8: bool = False) -> _Line:
    others = ("transformers", "llama.cpp")[: len(goals)]
    settings = tuple(f"rows {rows}, prompt {prompt}: llmlab / {one}" for one in others)
    return _Line(words, model, "peers", settings, goals, int8=int8)


_LINES = (
    _Line(
        "decode, 1 row, share of the matrix-vector rate",
        _QWEN, "decode", ("rows 1, context 64, plain",), (">= 0.9",), share=True,
    ),
    _peers(_QWEN, "decode, 1 row, speed over transformers and llama.cpp", 1, (">= 2", ">= 1")),
    _Line(
        "decode, 1 row, share of the matrix-vector rate",
        _SMOL, "decode", ("rows 1, context 64, plain",), (">= 0.9",), share=True,
    ),
    _peers(_SMOL, "1 row, speed over transformers and llama.cpp", 1, (">= 3", "")),
    _peers(_SMOL, "8 rows, speed over transformers and llama.cpp", 8, (">= 3", "")),
    _peers(_SMOL, "int8, 1 row, speed over transformers in float32 and llama.cpp in Q8_0", 1, ("", ""), int8=True),
    _peers(_SMOL, "int8, 8 rows, speed over transformers in float32 and llama.cpp in Q8_0", 8, ("", ""), int8=True),
    _Line(
        "decode, 32 rows, share of the matrix-matrix rate",
        _QWEN, "decode", ("rows 32, context 64, plain",), (">= 0.7",), share=True,
    ),
    _peers(_QWEN, "32 rows, speed over transformers and llama.cpp", 32, (">= 2", "")),
    _peers(_DEMO, "1 row, sampling on, speed over transformers and llama.cpp", 1, (">= 8", "")),
    _peers(_DEMO, "64 rows, sampling on, speed over transformers and llama.cpp", 64, (">= 4", "")),
    _Line(
        "128 answers to 512 tokens: time to the first tokens over one answer's; bytes of the cache over those needed",
        _DEMO, "many",
        (
            "n 128, prompt 512: first tokens of all / of one",
            "n 128, prompt 512: bytes of the cache / of one prompt and the answers",
        ),
        ("<= 1.1", "<= 1.2"),
    ),
    _peers(_DEMO, "128 answers to 512 tokens, whole, speed over transformers and llama.cpp", 128, (">= 4", ""), 512),
    _Line(
        "32 answers to 896 tokens: speed over that after 16 tokens",
        _DEMO, "many", ("n 32, prompt 896: speed of decoding / with prompts of 16",), (">= 0.8",),
    ),
    _Line(
        "one plain row in 8 slots of the sampler, time over that of one alone, V = 151,936",
        _DEMO, "sampler", ("V 151936, one plain row in 8 slots / alone",), ("<= 1.1",),
    ),
    _Line(
        "second turn of a chat, time to the first token over the first turn's; prompts read for tree(3, 3)",
        _DEMO, "turns", ("second turn after 512 tokens / first", "tree(depth=3, width=3)"), ("<= 0.15", "<= 1"),
    ),
    _Line(
        "longest gap of a stream beside 7 prompts of 960 tokens over that alone",
        _DEMO, "mixed", ("beside / alone",), ("<= 3",),
    ),
    _Line(
        "16 rows with a JSON schema, time a token over that without; a plain row beside one with a schema, speed",
        _DEMO, "structured",
        ("n 16: time a token with a schema / without", "a plain row beside one with a schema: speed / alone"),
        ("<= 1.15", ">= 0.9"),
    ),
    _Line(
        "1,000 uneven answers: speed over full even batches; prompts read; programs compiled after the first run",
        _DEMO, "sweep",
        (
            "1,000 uneven answers: speed / of full even batches",
            "prompts read for all of them",
            "compiled after the first run",
        ),
        (">= 0.9", "<= 1", "<= 0"),
    ),
    _Line(
        "scoring 64 texts of 12 tokens over 64 times one",
        _DEMO, "scoring", ("64 texts of 12 tokens / 64 x one",), ("<= 0.1",),
    ),
    _Line(
        "process start to first token over transformers': programs kept on disk; nothing compiled before",
        _DEMO, "starts",
        (
            "llmlab / transformers, programs kept on disk",
            "llmlab / transformers, nothing compiled before",
        ),
        ("<= 1", "<= 2.5"),
    ),
    _Line(
        "most that the time of a step differs from a line in the context",
        _DEMO, "growth", ("most that a step differs from the line / the longest step",), ("<= 0.2",),
    ),
    _Line(
        "32 rows in pinned slots, speed over the free engine",
        _DEMO, "pinned", ("32 rows: pinned slots / free",), (">= 0.9",),
    ),
)  # fmt: skip


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of runs, which are what `report.to_json` writes, each for another model."""
    lines = ["| work | model | goal | measured |", "| --- | --- | --- | --- |"]
    for line in _LINES:
        for run in runs:
            # A model's file may say more in its name, such as how it is quantized.
            own = run["options"]["model"].removeprefix("shape:").lower().startswith(line.model)
            if own and line.int8 == (run["options"].get("dtype") == "int8"):
                goal = ", ".join(goal or "-" for goal in line.goals)
                lines.append(f"| {line.words} | {line.model} | {goal} | {', '.join(_values(line, run))} |")
    return "\n".join([*lines, "", *_where(runs)])


def _values(line: _Line, run: dict[str, Any]) -> Iterator[str]:
    figures = {(one["work"], one["setting"]): one for one in run["figures"]}
    for setting, goal in zip(line.settings, line.goals, strict=True):
        figure = figures.get((line.work, setting))
        value = figure and (figure["share"] if line.share else figure["value"])
        if value is None:
            yield "not measured"
            continue
        shown = (
            f"{value:.0f}" if figure and figure["unit"] in ("programs", "prompts", "prompts read") else f"{value:.2f}"
        )
        yield shown if not goal or _holds(value, goal) else f"**{shown}**"


def _holds(value: float, goal: str) -> bool:
    sign, limit = goal.split()
    return value <= float(limit) if sign == "<=" else value >= float(limit)


def _where(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    dates = sorted({run["date"] for run in runs})
    devices = sorted({run["device"] for run in runs})
    versions = {name: number for run in runs for name, number in run["versions"].items()}
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    yield f"Measured {' and '.join(dates)} on {' and '.join(devices)}: {named}. Bold: the goal was missed."


if __name__ == "__main__":
    sys.stdout.write(table([json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:]]) + "\n")
