"""A new process to its first token: `python -m llmlab.cli.bench.contenders.first_token NAME FOLDER DTYPE`.

NAME is llmlab or transformers. Both load a model with its tokenizer, render the same chat with its template, and
generate one token, greedily.
"""

from __future__ import annotations

import sys
from typing import Any

_MESSAGES = [{"role": "user", "content": "Hello"}]


def _llmlab(model: str, dtype: str) -> None:
    import llmlab

    lab = llmlab.load(model, dtype=dtype, quiet=True)
    for chunk in lab.stream(_MESSAGES, max_tokens=1, temperature=0.0):
        if chunk.choices:
            break


def _transformers(folder: str, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    ids: Any = tokenizer.apply_chat_template(
        _MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        model.generate(**ids.to(device), do_sample=False, max_new_tokens=1, pad_token_id=0)


if __name__ == "__main__":
    {"llmlab": _llmlab, "transformers": _transformers}[sys.argv[1]](*sys.argv[2:])
