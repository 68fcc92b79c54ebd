"""Asks llama.cpp what tests/real/test_llama_cpp.py compares with, and writes it to llama_cpp.json.

    pip install xllamacpp==2026.10.11549 && python -m tests.real.record

xllamacpp is llama.cpp as a wheel. It is asked twice: with the model as it is stored (it then rounds activations to 8
bits before they meet 4-bit weights), and with the same weights dequantized to float32, so that its arithmetic is
comparable.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf

from tests.real.smollm2 import find_smollm2

RECORD = Path(__file__).with_name("llama_cpp.json")
LENGTH = 48

PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "Explain photosynthesis to a child.",
    "What is 12 plus 30?",
    "Translate 'good morning' into French.",
    "Who wrote Romeo and Juliet?",
    "Give me a short recipe for pancakes.",
    "Why is the sky blue?",
    "Say hello politely.",
]

TEXTS = [
    "Hello, world!",
    "  two spaces, and three   within, and some after   ",
    "line one\nline two\n\n\n   line five\r\n\ttab",
    "It's what they'LL say; I'd've said you're 'right'.",
    "12 345 6789 1234567890 3.14159 1,000,000 2nd 3x",
    "Größe, naïve café, Ångström, Πλάτων, Война и мир",
    "日本語のテキスト、한국어 텍스트, 中文文本。العربية עברית हिन्दी",
    "👩‍👩‍👧 🇩🇪 emoji 🙂🙃 \u200b zero \u00a0 width",
    "def f(x):\n    return x ** 2  # squared\n\n\nclass A(B): ...",
    "CamelCaseAndHTTPServer_snake_case-kebab; a+=b!=c??? ...---===",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
]


@contextmanager
def llama_cpp(model: Path, *, context: int = 2048) -> Iterator[Any]:
    """Posts to llama.cpp's own server, with one thread and a cache in float32."""
    import xllamacpp

    told = xllamacpp.CommonParams()
    told.model.path = str(model)
    told.n_ctx, told.n_parallel, told.n_gpu_layers, told.warmup, told.use_jinja = context, 1, 0, False, True
    told.cpuparams.n_threads = told.cpuparams_batch.n_threads = 1
    told.cache_type_k = told.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    told.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(told)

    def post(path: str, **body: Any) -> Any:
        head = {"Content-Type": "application/json"}
        asked = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), head)
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)

    yield post


def dequantized(model: Path, to: Path) -> Path:
    """The same file with every tensor in float32; metadata and the order of rows stay as they are."""
    read = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(to, read.fields["general.architecture"].contents())
    for field in read.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in read.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def answers(post: Any) -> list[dict[str, Any]]:
    """Greedy answers to the prompts: the prompt's tokens, the answer's and its text."""
    found = []
    for prompt in PROMPTS:
        text = post("/apply-template", messages=[{"role": "user", "content": prompt}])["prompt"]
        ids = post("/tokenize", content=text, parse_special=True, add_special=False)["tokens"]
        greedy = {"temperature": 0.0, "samplers": ["temperature"]}
        answer = post("/completion", prompt=ids, n_predict=LENGTH, **greedy, cache_prompt=False, return_tokens=True)
        found.append({"prompt_ids": ids, "tokens": answer["tokens"], "text": answer["content"]})
    return found


def main() -> None:
    model = find_smollm2()
    assert model is not None
    with llama_cpp(model) as post:
        stored = answers(post)
        texts = [post("/tokenize", content=text, parse_special=True, add_special=False)["tokens"] for text in TEXTS]
    with tempfile.TemporaryDirectory() as folder, llama_cpp(dequantized(model, Path(folder) / "f32.gguf")) as post:
        plain = answers(post)
    assert [one["prompt_ids"] for one in plain] == [one["prompt_ids"] for one in stored]
    record = {
        "made_by": f"xllamacpp {importlib.metadata.version('xllamacpp')}, python -m tests.real.record",
        "texts": [{"text": text, "ids": ids} for text, ids in zip(TEXTS, texts, strict=True)],
        "answers": [
            {"prompt": prompt, **one, "text_with_rounded_activations": other["text"]}
            for prompt, one, other in zip(PROMPTS, plain, stored, strict=True)
        ],
    }
    lines = json.dumps(record, ensure_ascii=False, indent=1)
    RECORD.write_text(lines + "\n", "utf-8")


if __name__ == "__main__":
    main()
