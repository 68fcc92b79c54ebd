"""The embedded model's metrics, on questions its training never saw, as a table and as JSON.

    python -m data.build.evaluate --model data/demo --count 400 --json metrics.json

The known distributions are measured by teacher forcing with exact probabilities; everything else is asked through the lab at
temperature 0 and compared with the one right answer, character for character (a tool call: as JSON).
"""

from __future__ import annotations

import argparse
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import llmlab
from data.build.conversation import Conversation, Message
from data.build.corpus import EVAL_SEED, questions
from data.build.distributions import truth
from data.build.packing import Encoder
from data.build.scoring import Teacher, token_logprobs
from llmlab.checkpoints.load import load_model

# domain -> the minimum that a released model should reach; None: reported without a target
TARGETS: dict[str, float | None] = {
    "tools": 0.95, "records": 0.95, "arithmetic": 0.90, "facts": 0.98, "words": None, "arithmetic (no thinking)": None,
}  # fmt: skip
KL_TARGET = 0.02
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


def teacher(folder: Path) -> Teacher:
    """Teacher forcing over a saved model."""
    _, model = load_model(folder, dtype=jnp.float32)
    graph, state = nnx.split(model)
    compiled = jax.jit(lambda state, *rows: token_logprobs(nnx.merge(graph, state), *rows))
    return Teacher(Encoder.load(folder), lambda *rows: compiled(state, *rows))


def mean_divergences(folder: Path, *, seed: int, per_distribution: int) -> dict[str, float]:
    """The mean KL divergence of each distribution, in nats, over wordings that training never had."""
    rows = truth(seed, per_distribution=per_distribution)
    divergences: dict[str, list[float]] = {}
    for row, divergence in zip(rows, teacher(folder).divergences(rows), strict=True):
        divergences.setdefault(str(row["name"]), []).append(divergence)
    return {name: float(np.mean(values)) for name, values in divergences.items()}


def answer(lab: Any, conversation: Conversation) -> str:
    """What the model writes at temperature 0: reasoning, calls and all, without its end token."""
    result = lab.chat(conversation.prompt, temperature=0, tools=conversation.tools,
                      enable_thinking=conversation.enable_thinking)  # fmt: skip
    ids = [int(token) for token in result.choices[0].tokens.ids]
    text: str = lab.backend.tokenizer.hf.decode(ids)
    return text.removesuffix("<|im_end|>")


def is_right(written: str, expected: Message) -> bool:
    """Whether the text is the expected turn; of an answer with reasoning only the text after the reasoning counts."""
    said = written.split("</think>")[-1].lstrip("\n")
    if "tool_calls" not in expected:
        return said == expected["content"]
    try:
        calls = [json.loads(body) for body in _CALL.findall(said)]
    except json.JSONDecodeError:
        return False
    return calls == [call["function"] for call in expected["tool_calls"]] and not _CALL.sub("", said).strip()


def exact(lab: Any, domain: str, *, seed: int, count: int, show: int = 0) -> float:
    """The share of questions of a domain that are answered exactly right."""
    asked = questions(domain, seed, count)
    with ThreadPoolExecutor(16) as pool:
        written = list(pool.map(lambda conversation: answer(lab, conversation), asked))
    right = [is_right(text, conversation.expected) for text, conversation in zip(written, asked, strict=True)]
    for text, conversation, good in zip(written, asked, right, strict=True):
        if not good and show > 0:
            show -= 1
            print(f"{domain}: {conversation.prompt[-1]['content']!r}\n   wrote {text!r}")
            print(f"   expected {conversation.expected}")
    return float(np.mean(right))


def evaluate(folder: Path, *, seed: int, count: int, per_distribution: int, show: int) -> dict[str, Any]:
    """All metrics of a model's folder."""
    per = mean_divergences(folder, seed=seed, per_distribution=per_distribution)
    kl = float(np.mean(list(per.values())))
    figures: dict[str, Any] = {"seed": seed, "count": count, "kl": kl, "kl_by_distribution": per}
    lab = llmlab.load(str(folder))
    figures["exact"] = {domain: exact(lab, domain, seed=seed, count=count, show=show) for domain in TARGETS}
    lab.close()
    return figures


def table(figures: dict[str, Any]) -> str:
    """The metrics as a Markdown table."""
    header = f"mean KL(truth, model) over {len(figures['kl_by_distribution'])} distributions, nats"
    lines = ["| metric | measured | target |", "|---|---|---|", f"| {header} | {figures['kl']:.4f} | <= {KL_TARGET} |"]
    names = {"tools": "tool calls exactly right, or correctly none", "records": "JSON valid and correct",
             "arithmetic": "arithmetic with thinking", "facts": "facts", "words": "foreign words and emoji",
             "arithmetic (no thinking)": "arithmetic without thinking"}  # fmt: skip
    for domain, share in figures["exact"].items():
        target = TARGETS[domain]
        lines.append(f"| {names[domain]} | {share:.1%} | {'' if target is None else f'>= {target:.0%}'} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and fail where a target is missed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=Path("data/demo"))
    parser.add_argument("--seed", type=int, default=EVAL_SEED)
    parser.add_argument("--count", type=int, default=400, help="questions a domain")
    parser.add_argument("--per-distribution", type=int, default=30, help="wordings per distribution")
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers a domain")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    a = parser.parse_args()
    figures = evaluate(a.model, seed=a.seed, count=a.count, per_distribution=a.per_distribution, show=a.show)
    print(table(figures))
    worst = sorted(figures["kl_by_distribution"].items(), key=lambda pair: -pair[1])[:5]
    print("the furthest distributions: " + ", ".join(f"{name} {value:.4f}" for name, value in worst))
    if a.json:
        a.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    missed = [domain for domain, share in figures["exact"].items() if share < (TARGETS[domain] or 0)]
    missed += ["kl"] * (figures["kl"] > KL_TARGET)
    if a.strict and missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
