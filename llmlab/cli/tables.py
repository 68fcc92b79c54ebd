"""The tables that the command line prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from llmlab.cli.demo import Demo
    from llmlab.results.result import Result


def speed(done: Demo) -> str:
    """One line about the speed of the demo's answer, and whether asking again gave the same tokens."""
    count = len(done.story.choices[0].tokens)
    same = "the same tokens" if done.same else "OTHER tokens, though the seed was the same"
    return (
        f"{count} tokens in {done.seconds:.2f} s, including compilation; "
        f"asked again: {count / done.seconds_again:,.0f} tokens/s, and {same}"
    )


def logprobs_table(result: Result, *, rows: int | None) -> Table:
    """The tokens of a result with their log-probabilities: the first `rows` of them, or all."""
    from rich.table import Table
    from rich.text import Text

    from llmlab.text.spelling import label

    frame = result.logprobs_frame()
    table = Table(title="how sure the model was", title_justify="left", caption_justify="left")
    for name in ("token", "segment", "p", "logprob", "sampling", "rank", "entropy", "kept"):
        table.add_column(name, justify="left" if name in ("token", "segment") else "right")
    for row in frame.head(rows if rows is not None else len(frame)).to_dict("records"):
        table.add_row(
            Text(label(row["bytes"], name=row["token"])),
            row["segment"],
            f"{math.exp(row['logprob']):.3f}",
            f"{row['logprob']:z.3f}",
            f"{row['sampling_logprob']:z.3f}",
            f"{row['rank']}",
            f"{row['entropy']:z.2f}",
            f"{row['kept']}",
        )
    if rows is not None and len(frame) > rows:
        table.caption = f"and {len(frame) - rows} more tokens"
    return table


def _answer(text: str) -> Text:
    """An answer on one line, cut to fit a table."""
    from rich.text import Text

    shown = " ".join(text.split())
    return Text(shown if len(shown) <= 48 else shown[:47] + "…") if shown else Text("(empty)", style="dim")


def answers_table(done: Demo) -> Table:
    """How often each answer to the demo's question was given, at its two temperatures."""
    from rich.table import Table

    from llmlab.cli import demo as show

    cool, warm = show.counts(done.cool), show.counts(done.warm)
    table = Table(
        title=f"{show.QUESTION}  {show.DRAWS} answers at two temperatures, with the same noise", title_justify="left"
    )
    table.add_column("answer")
    for temperature in (show.COOL, show.WARM):
        table.add_column(f"at {temperature:g}", justify="right")
    both = sorted(cool | warm, key=lambda answer: (-cool[answer] - warm[answer], answer))
    for answer in both[:10]:
        table.add_row(_answer(answer), str(cool[answer] or "·"), str(warm[answer] or "·"))
    if len(both) > 10:
        rest = both[10:]
        table.add_row("others", str(sum(cool[a] for a in rest)), str(sum(warm[a] for a in rest)), style="dim")
    table.add_row("different answers", str(len(cool)), str(len(warm)), style="dim")
    return table
