"""Asks llama.cpp what it makes of the tiny GGUF files, for tests/checkpoints/test_gguf.py; writes gguf_llama_cpp.json.

    pip install xllamacpp==2026.10.11549 && python -m tests.checkpoints.gguf_record

So it is known that llama.cpp reads the files that the tests write, and what it has built in for an architecture.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path

from tests.checkpoints.gguf_cases import gguf_cases
from tests.checkpoints.gguf_files import write_gguf
from tests.models.cases import KEPT_TOKENS, VOCABULARY, tokens
from tests.models.test_golden import checkpoint
from tests.real.record import llama_cpp

RECORD = Path(__file__).with_name("gguf_llama_cpp.json")
#: How many tokens are read before the distribution that is recorded.
LENGTHS = (9, 60, 160)


#: llama.cpp takes Phi-3's long factors where there is room for a long text, and not where a text is long.
CONTEXTS = {"phi3-short": 256}


def distributions(path: Path, *, context: int) -> list[list[float]]:
    """The log-probabilities of some tokens after the first tokens of the common ones."""
    found = []
    with llama_cpp(path, context=context) as post:
        for length in LENGTHS:
            answer = post(
                "/completion", prompt=tokens()[0, :length].tolist(), n_predict=1, n_probs=VOCABULARY, cache_prompt=False
            )
            listed = {one["id"]: one["logprob"] for one in answer["completion_probabilities"][0]["top_logprobs"]}
            assert len(listed) == VOCABULARY
            found.append([round(listed[token], 4) for token in KEPT_TOKENS])
    return found


def main() -> None:
    record: dict[str, object] = {"made_by": f"xllamacpp {importlib.metadata.version('xllamacpp')}"}
    for case in gguf_cases():
        with tempfile.TemporaryDirectory() as folder:
            made = checkpoint(case, Path(folder) / "made")
            record[str(case)] = distributions(
                write_gguf(Path(folder) / "model.gguf", made), context=CONTEXTS.get(str(case), 512)
            )
    RECORD.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in record.items()) + "\n}\n", "utf-8"
    )


if __name__ == "__main__":
    main()
