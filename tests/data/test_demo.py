"""The embedded model's folder: its tokenizer, its template, its truth, its size."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from data.build.corpus import Stream
from data.build.distributions import DISTRIBUTIONS
from data.build.packing import LENGTHS, Encoder, shard
from data.build.tokenizer import SPECIAL, TAGS, VOCABULARY, render, train, wrap
from data.build.written import prompts, rows_of_distributions

DEMO = Path(__file__).parents[2] / "data" / "demo"
THINK = "<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(DEMO)


def prompt(encoder: Encoder, messages: list[dict], **switches) -> str:
    return encoder.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switches)


def test_the_folder_is_small_and_whole():
    files = {path.name: path.stat().st_size for path in DEMO.iterdir()}
    assert sum(files.values()) <= 16e6
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja", "README.md", "truth.jsonl"} <= set(files)  # fmt: skip


def test_the_vocabulary(encoder: Encoder):
    tokenizer = encoder.tokenizer
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    for token in (*SPECIAL, *TAGS):
        assert len(tokenizer.encode(token)) == 1
    for number in ("7", "42", "1984"):
        assert [tokenizer.decode(i) for i in tokenizer.encode(number)] == list(number)
    for sign in ("🙂", "美", "世", "한"):
        assert len(tokenizer.encode(sign)) > 1


def test_every_byte_survives(encoder: Encoder):
    rng = random.Random(1)
    ranges = ((32, 127), (160, 0xD7FF), (0x1F300, 0x1F9FF))
    texts = ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(40)) for _ in range(50)]
    for text in [*texts, " two  spaces \n\n\ttab ", "e\u0301 stays decomposed", "\x00\x7f"]:
        ids = encoder.tokenizer.encode(text, add_special_tokens=False)
        assert encoder.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_template_ends_in_an_empty_think_block_unless_asked_to_think(encoder: Encoder):
    ask = [{"role": "user", "content": "Flip a coin."}]
    closed = "<|im_start|>user\nFlip a coin.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert prompt(encoder, ask) == prompt(encoder, ask, enable_thinking=False) == closed
    assert prompt(encoder, ask, enable_thinking=True) == closed.removesuffix("<think>\n\n</think>\n\n")


def test_past_turns_lose_their_reasoning(encoder: Encoder):
    turns = [
        {"role": "user", "content": "2 + 2"},
        {"role": "assistant", "content": "4", "reasoning_content": "2 + 2 = 4"},
    ]
    assert "<think>\n2 + 2 = 4\n</think>\n\n4<|im_end|>" in encoder.tokenizer.apply_chat_template(turns, tokenize=False)
    again = [*turns, {"role": "user", "content": "Thanks."}]
    assert "2 + 2 = 4" not in prompt(encoder, again)
    tags_in_content = [{"role": "user", "content": "2 + 2"},
                       {"role": "assistant", "content": "<think>\n2 + 2 = 4\n</think>\n\n4"}, again[-1]]  # fmt: skip
    assert prompt(encoder, tags_in_content) == prompt(encoder, again)


def test_text_parts_tools_and_results(encoder: Encoder):
    tool = {"type": "function", "function": {"name": "clock", "description": "é", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "Malmö"}}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "What time "}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "noon"}, {"role": "tool", "content": [{"type": "text", "text": "one"}]},
    ]  # fmt: skip
    text = prompt(encoder, messages, tools=[tool])
    spoken = json.dumps(call["function"], ensure_ascii=False)
    assert text == (
        f"<|im_start|>system\nBe kind.\nFunctions you may call:\n{json.dumps(tool['function'], ensure_ascii=False)}"
        "<|im_end|>\n<|im_start|>user\nWhat time is it?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        f"<tool_call>\n{spoken}\n</tool_call>\n<tool_call>\n{spoken}\n</tool_call><|im_end|>\n<|im_start|>user\n"
        "<tool_response>\nnoon\n</tool_response>\n<tool_response>\none\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    as_string = {"type": "function", "function": {"name": "clock", "arguments": '{"city": "Malmö"}'}}
    messages[2] = {"role": "assistant", "content": "", "tool_calls": [as_string, as_string]}
    assert prompt(encoder, messages, tools=[tool]) == text


def test_only_what_an_assistant_writes_counts_in_full(encoder: Encoder):
    decode = encoder.tokenizer.decode
    for conversation in itertools.islice(Stream(21), 150):
        ids = encoder.encode([conversation])[0]
        weights = encoder.weights(ids)
        counted = decode([i for i, weight in zip(ids, weights, strict=True) if weight == 1])
        written = [m for m in conversation.messages if m["role"] == "assistant"]
        assert counted.count("<|im_end|>") == len(written)
        assert "<think>\n\n</think>" not in counted and "<|im_start|>" not in counted
        assert counted.endswith(written[-1]["content"] + "<|im_end|>") or "tool_calls" in written[-1]
        # A prompt and its answer are tokenised alone as they are together: what is trained is what is asked.
        head = encoder.tokenizer.encode(render(encoder.tokenizer, conversation, prompt_only=True))
        assert ids[: len(head)] == head


def test_rows_keep_conversations_apart(encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.build.packing.SHARD_CONVERSATIONS", 700)
    batches = shard(encoder, seed=0, number=3, tokens_per_batch=1024)
    again = shard(encoder, seed=0, number=3, tokens_per_batch=1024)
    assert all(
        (a == b).all() for one, other in zip(batches, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    filled = sum(int((b.segments > 0).sum()) for b in batches) / sum(b.tokens.size for b in batches)
    assert filled > 0.9
    for batch in batches:
        assert batch.tokens.shape[1] in LENGTHS
        starts = batch.tokens == encoder.header[0]
        assert (starts[batch.positions == 0] | (batch.segments[batch.positions == 0] == 0)).all()
        inner = batch.weights[:, :-1] > 0
        assert (batch.segments[:, :-1] == batch.segments[:, 1:])[inner].all()
        assert (batch.targets[:, :-1] == batch.tokens[:, 1:])[inner].all()
        assert not batch.weights[:, -1].any()


def test_the_committed_tokenizer_is_what_the_generator_makes(encoder: Encoder):
    made = wrap(train()).get_vocab()
    assert made == encoder.tokenizer.get_vocab()


def test_the_committed_truth_and_prompts_are_what_the_generator_writes():
    written = [json.loads(line) for line in (DEMO / "truth.jsonl").read_text(encoding="utf-8").splitlines()]

    def key(row: dict) -> str:
        return row["messages"][0]["content"]

    assert sorted(written, key=key) == sorted(rows_of_distributions(), key=key)
    assert {row["name"] for row in written} == {known.name for known in DISTRIBUTIONS}
    for row in written:
        assert sum(row["distribution"].values()) == pytest.approx(1, abs=1e-9)
    for name, rows in prompts().items():
        lines = (DEMO.parent / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows


def test_the_card_says_what_was_measured():
    from data.build.evaluate import KL_TARGET, TARGETS, table

    figures = json.loads((DEMO / "metrics.json").read_text(encoding="utf-8"))
    assert table(figures) in (DEMO / "README.md").read_text(encoding="utf-8")
    assert figures["kl"] <= KL_TARGET and set(figures["kl_by_distribution"]) == {known.name for known in DISTRIBUTIONS}
    assert all(share >= (TARGETS[domain] or 0) for domain, share in figures["exact"].items())
