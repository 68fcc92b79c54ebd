"""transformers' `generate` as a contender: `python -m llmlab.cli.bench.contenders.transformers_generate FOLDER DTYPE`.

On a GPU it has a static cache and a compiled step, as its documentation advises where speed counts.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from llmlab.cli.bench.contenders.asked import FIELDS, Asked, answer


def _main(folder: str, dtype: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    further: dict[str, Any] = {"cache_implementation": "static"} if device == "cuda" else {}

    def generate(asked: Asked) -> int:
        prompt = np.random.default_rng(0).integers(0, asked.vocab_size, asked.prompt)
        ids = torch.tensor(np.repeat(prompt[None, :], asked.rows, axis=0), device=device)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                max_new_tokens=asked.tokens,
                min_new_tokens=asked.tokens,
                pad_token_id=0,
                **FIELDS,
                **further,
            )
        return int((out.shape[1] - ids.shape[1]) * asked.rows)

    answer(generate)


if __name__ == "__main__":
    _main(*sys.argv[1:])
