"""Writes what the notebooks read: ``truth.jsonl``, the exact distributions, and the prompts under ``data/prompts``.

``python -m data.build.written --out data``
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from data.build.conversation import user
from data.build.corpus import EVAL_SEED, questions
from data.build.distributions import DISTRIBUTIONS, as_row, truth

STORIES = ("Tell me a story.", "Tell me a story about a fox.", "Write a short story about a dragon.",
           "Make up a story about a robot.", "Describe a forest.", "Describe a city at night.",
           "Write a few lines about a kitchen.", "Write a poem.")  # fmt: skip
PLAIN_WORDINGS = ("Flip a coin.", "Roll a die.", "Roll a loaded die.", "Roll two dice.", "Name a colour.",
                  "Name an animal.", "Pick a number from 1 to 10.", "Name a fruit.", "Guess the temperature of the room.", "Play the lottery.",
                  "Send a mood emoji.", "Say hello in any language.")  # fmt: skip


def rows_of_distributions() -> list[dict[str, Any]]:
    """The plain wordings of ``PLAIN_WORDINGS`` with their distributions, then held-out wordings of all distributions."""
    plain = []
    for text in PLAIN_WORDINGS:
        core = text[0].lower() + text[1:-1]
        known = next(known for known in DISTRIBUTIONS if core in known.cores)
        plain.append(as_row(text, known))
    return plain + truth(EVAL_SEED + 1, per_distribution=9)


def prompts() -> dict[str, list[dict[str, Any]]]:
    """File name -> rows: prompts for notebooks, with the right answer where there is one."""
    files: dict[str, list[dict[str, Any]]] = {"stories": [{"messages": [user(text)]} for text in STORIES]}
    files["distributions"] = [row for row in rows_of_distributions() if row["messages"][0]["content"] in PLAIN_WORDINGS]
    for domain in ("facts", "arithmetic", "records", "tools"):
        files[domain] = []
        for conversation in questions(domain, EVAL_SEED + 3, 12):
            row: dict[str, Any] = {"messages": conversation.prompt}
            row |= {"tools": conversation.tools} if conversation.tools else {}
            row |= {"enable_thinking": True} if conversation.enable_thinking else {}
            files[domain].append(row | {"expected": conversation.expected})
    return files


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as JSONL, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"))
    out = parser.parse_args().out
    rows = rows_of_distributions()
    random.Random(EVAL_SEED).shuffle(rows)
    write(out / "demo" / "truth.jsonl", rows)
    for name, chosen in prompts().items():
        write(out / "prompts" / f"{name}.jsonl", chosen)


if __name__ == "__main__":
    main()
