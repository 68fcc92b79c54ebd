"""The conformance table, second half: every field of the response and of its chunks, by what it says.

One row a field. The fields are those that really come: a field without a row, and a row without a field, are failures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

import llmlab
from tests.contract.test_request_fields import ANIMAL, PAIR, STORY, SUM, TOOLS
from tests.contract.ways import LISTS, Way, entries

#: What is asked, once in each way; the rows read the answers.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "story": (STORY, {"n": 2, "seed": 7, "max_tokens": 8, "top_logprobs": 20, "temperature": 0.7, "top_k": 9}),
    "hello": ("Say hello in any language.", {"n": 8, "seed": 3, "top_logprobs": 2}),
    "drawn": (STORY, {"max_tokens": 8}),
    "stopped": (STORY, {"temperature": 0, "stop": "er", "max_tokens": 30}),
    "endless": (ANIMAL, {"temperature": 0, "ignore_eos": True, "max_tokens": 6}),
    "thought": (SUM, {"temperature": 0, "enable_thinking": True, "separate_reasoning": True, "top_logprobs": 1}),
    "joined": (SUM, {"temperature": 0, "enable_thinking": True}),
    "calls": (PAIR, {"temperature": 0, "tools": TOOLS, "top_logprobs": 1}),
}


class Answers(dict[str, ChatCompletion]):
    """The answers to everything in ASKED, by one way."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.began = int(time.time())
        super().__init__({name: way.ask(ask, logprobs=True, **fields) for name, (ask, fields) in ASKED.items()})
        self.ended = time.time()

    def choices(self) -> Iterator[Choice]:
        for answer in self.values():
            yield from answer.choices

    def entries(self) -> Iterator[Any]:
        """Every token of every list."""
        for choice in self.choices():
            for name in LISTS:
                yield from entries(choice, name)

    def laws(self, name: str) -> Iterator[Any]:
        ask, fields = ASKED[name]
        return self.way.laws(self[name], ask, logprobs=True, **fields)


@pytest.fixture(scope="session")
def answers(way: Way) -> Answers:
    return Answers(way)


#: Fields that one row speaks of together, and what it shows.
Table = dict[tuple[str, ...], Callable[[Any], None]]
ROWS: Table = {}
CHUNK_ROWS: Table = {}


def row(*fields: str, table: Table = ROWS) -> Callable[[Any], Any]:
    def keep(show: Any) -> Any:
        assert not fields_of(table) & set(fields)
        table[fields] = show
        return show

    return keep


def fields_of(table: Table) -> set[str]:
    return {field for fields in table for field in fields}


def paths(value: Any, here: str = "") -> set[str]:
    """Every field of a JSON value, as a path. The lists of the logprobs hold entries of one kind, `token`."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return set().union(*(paths(inner, here + "[]") for inner in value))
    if not isinstance(value, dict):
        return {here}
    found = set()
    for key, inner in value.items():
        path = f"{here}.{key}".lstrip(".")
        if here.endswith("logprobs") and key in LISTS:
            found |= {path}.union(*(paths(entry, "token") for entry in inner))
        else:
            found |= paths(inner, path)
    return found


@pytest.mark.parametrize("fields", ROWS, ids=", ".join)
def test_response_field(fields: tuple[str, ...], answers: Answers) -> None:
    ROWS[fields](answers)


def test_the_table_has_every_field_that_comes_and_no_other(answers: Answers) -> None:
    came = set().union(*(paths(answer.model_dump(mode="json", exclude_unset=True)) for answer in answers.values()))
    assert came == fields_of(ROWS)


# ---- the answer


@row("id")
def _(answers: Answers) -> None:
    made = [answer.id for answer in answers.values()]
    assert all(name.startswith("chatcmpl-") for name in made) and len(set(made)) == len(made)


@row("object")
def _(answers: Answers) -> None:
    assert {answer.object for answer in answers.values()} == {"chat.completion"}


@row("created")
def _(answers: Answers) -> None:
    assert all(answers.began <= answer.created <= answers.ended for answer in answers.values())


@row("model")
def _(answers: Answers) -> None:
    assert {answer.model for answer in answers.values()} == {answers.way.lab.backend.name}


@row("system_fingerprint")
def _(answers: Answers) -> None:
    [fingerprint] = {answer.system_fingerprint for answer in answers.values()}
    assert {llmlab.__version__, "float32", "highest", "slots8"} <= set(fingerprint.replace("-", "/").split("/"))


@row("seed")
def _(answers: Answers) -> None:
    assert (answers["story"].seed, answers["hello"].seed) == (7, 3)
    ask, fields = ASKED["drawn"]
    again = answers.way.ask(ask, logprobs=True, **fields, seed=answers["drawn"].seed)
    assert again.choices == answers["drawn"].choices and 0 <= again.seed < 2**53


@row("usage.prompt_tokens", "usage.completion_tokens", "usage.total_tokens")
def _(answers: Answers) -> None:
    lab = answers.way.lab
    for name, (ask, fields) in ASKED.items():
        answer = answers[name]
        assert answer.usage.prompt_tokens == len(lab.backend.render(lab.request(ask, logprobs=True, **fields)))
        listed = [len(entries(choice, kind)) for choice in answer.choices for kind in LISTS]
        assert answer.usage.completion_tokens == sum(listed)
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


# ---- a choice


@row("choices[].index")
def _(answers: Answers) -> None:
    for name, (_, fields) in ASKED.items():
        assert [choice.index for choice in answers[name].choices] == list(range(fields.get("n", 1)))


@row("choices[].finish_reason")
def _(answers: Answers) -> None:
    reasons = {name: {choice.finish_reason for choice in answer.choices} for name, answer in answers.items()}
    assert reasons == {
        "story": {"length"}, "hello": {"stop"}, "drawn": {"length"}, "stopped": {"stop"}, "endless": {"length"},
        "thought": {"stop"}, "joined": {"stop"}, "calls": {"tool_calls"},
    }  # fmt: skip


@row("choices[].message.role")
def _(answers: Answers) -> None:
    assert {choice.message.role for choice in answers.choices()} == {"assistant"}


@row("choices[].message.refusal", "choices[].logprobs.refusal")
def _(answers: Answers) -> None:
    # A field of every answer; a model's own "I cannot" is content, as this engine knows of no other.
    assert {(choice.message.refusal, choice.logprobs.refusal) for choice in answers.choices()} == {(None, None)}


@row("choices[].message.content")
def _(answers: Answers) -> None:
    assert answers["stopped"].choices[0].message.content == "Once upon a time ther"
    assert answers["thought"].choices[0].message.content == "42"
    assert answers["joined"].choices[0].message.content.endswith("</think>\n\n42")
    assert answers["calls"].choices[0].message.content is None
    assert "你好" in [choice.message.content for choice in answers["hello"].choices]


@row("choices[].message.reasoning_content")
def _(answers: Answers) -> None:
    [message] = [c.message for c in answers.choices() if "reasoning_content" in (c.message.model_extra or {})]
    inside = answers["joined"].choices[0].message.content.partition("<think>")[2].partition("</think>")[0]
    assert message.reasoning_content.strip() == inside.strip() != ""


@row("choices[].message.tool_calls[].function.name", "choices[].message.tool_calls[].function.arguments")
def _(answers: Answers) -> None:
    made = [call.function for call in answers["calls"].choices[0].message.tool_calls]
    assert [(call.name, json.loads(call.arguments)) for call in made] == [
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "Rome"}),
    ]


@row("choices[].message.tool_calls[].id", "choices[].message.tool_calls[].type")
def _(answers: Answers) -> None:
    made = answers["calls"].choices[0].message.tool_calls
    assert len({call.id for call in made}) == 2 and all(call.id.startswith("call_") for call in made)
    assert {call.type for call in made} == {"function"}


# ---- the logprobs


def text_of(listed: list[Any]) -> str:
    """What a list's tokens spell, less what lies outside of it."""
    parts = []
    for entry in listed:
        data = bytes(entry.bytes or ())
        parts.append(data[entry.lead : len(data) - entry.overhang])
    return b"".join(parts).decode("utf-8", "replace")


@row("choices[].logprobs.content")
def _(answers: Answers) -> None:
    for choice in answers.choices():
        assert text_of(choice.logprobs.content) == (choice.message.content or "")
    assert any(len(c.message.content) < len(c.logprobs.content) for c in answers["hello"].choices), "pieces of letters"


@row("choices[].logprobs.reasoning")
def _(answers: Answers) -> None:
    [choice] = answers["thought"].choices
    written = text_of(entries(choice, "reasoning"))
    assert written.startswith("<think>") and "</think>" in written
    assert choice.message.reasoning_content in written
    assert not any(entries(c, "reasoning") for name, a in answers.items() if name != "thought" for c in a.choices)


@row("choices[].logprobs.tool_calls")
def _(answers: Answers) -> None:
    [choice] = answers["calls"].choices
    written = text_of(entries(choice, "tool_calls"))
    assert written.count("<tool_call>") == 2 and written.count('"get_weather"') == 2
    assert not any(entries(c, "tool_calls") for name, a in answers.items() if name != "calls" for c in a.choices)


@row("choices[].logprobs.end")
def _(answers: Answers) -> None:
    for name, answer in answers.items():
        for choice in answer.choices:
            # An answer at its length has no end token, and neither has one that a stop ended.
            ended = name != "stopped" and choice.finish_reason in ("stop", "tool_calls")
            found = [entry.token_id for entry in entries(choice, "end")]
            assert len(found) == ended and set(found) <= set(answers.way.lab.backend.end_ids)


@row("token.token", "token.bytes", "token.token_id")
def _(answers: Answers) -> None:
    tokenizer = answers.way.lab.backend.tokenizer
    spelled, silent = answers.way.lab.backend.token_bytes, 0
    names = {token_id: tokenizer.name(token_id) for token_id, data in enumerate(spelled) if data is None}
    for entry in answers.entries():
        data = spelled[entry.token_id]
        assert entry.bytes == (None if data is None else list(data))
        silent += data is None
        assert entry.token == (names[entry.token_id] if data is None else data.decode("utf-8", "replace"))
    assert silent, "a control token that ended nothing"


@row("token.logprob", "token.rank", "token.entropy")
def _(answers: Answers) -> None:
    for entry, _, logits in answers.laws("story"):
        raw = logits.astype(np.float64) - logits.max()
        raw -= np.log(np.exp(raw).sum())
        assert entry.logprob == pytest.approx(raw[entry.token_id], abs=1e-3)
        assert entry.entropy == pytest.approx(-(np.exp(raw) * raw).sum(), abs=1e-2)
        above = (logits > logits[entry.token_id] + 1e-3).sum()
        assert above + 1 <= entry.rank <= (logits >= logits[entry.token_id] - 1e-3).sum()


@row("token.sampling_logprob", "token.kept")
def _(answers: Answers) -> None:
    for entry, truth, _ in answers.laws("story"):
        assert entry.kept == 9 == truth.kept.sum()
        assert entry.sampling_logprob == pytest.approx(np.log(truth.probs[entry.token_id]), abs=5e-3)
    assert {entry.kept for entry in answers["stopped"].choices[0].logprobs.content} == {1}


@row("token.lead", "token.overhang")
def _(answers: Answers) -> None:
    entries = answers["stopped"].choices[0].logprobs.content
    assert [entry.overhang for entry in entries] == [0, 0, 0, 0, len("e")]
    # Content after other text begins with a token of its own here: what comes before it belongs to the reasoning.
    assert [entry.lead for entry in answers["thought"].choices[0].logprobs.content] == [0, 0]


@row("token.top_logprobs[].token", "token.top_logprobs[].bytes", "token.top_logprobs[].token_id")
def _(answers: Answers) -> None:
    spelled = answers.way.lab.backend.token_bytes
    for entry in answers.entries():
        for other in entry.top_logprobs:
            data = spelled[other.token_id]
            assert other.bytes == (None if data is None else list(data))
            assert data is None or other.token == data.decode("utf-8", "replace")
    assert {len(entry.top_logprobs) for entry in answers.entries()} == {0, 1, 2, 20}


@row("token.top_logprobs[].logprob", "token.top_logprobs[].sampling_logprob", "token.top_logprobs")
def _(answers: Answers) -> None:
    for entry, truth, logits in answers.laws("story"):
        raw = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        order = [(-other.logprob, other.token_id) for other in entry.top_logprobs]
        assert order == sorted(order)
        for other in entry.top_logprobs:
            assert other.logprob == pytest.approx(float(raw[other.token_id]), abs=1e-3)
            if truth.kept[other.token_id]:
                assert other.sampling_logprob == pytest.approx(np.log(truth.probs[other.token_id]), abs=5e-3)
            else:
                assert other.sampling_logprob == -9999.0, "JSON has no infinity"


# ---- chunks


@pytest.fixture(scope="session")
def streams(streaming: Way) -> dict[str, list[dict[str, Any]]]:
    """The chunks of some of the same answers."""
    got = {}
    for name in ("story", "thought", "calls", "stopped"):
        ask, fields = ASKED[name]
        # Asked for and refused in one, left unsaid in the others.
        options = {"stopped": {"include_usage": True}, "calls": {"include_usage": False}}.get(name)
        said = {} if options is None else {"stream_options": options}
        came = streaming.chunks(ask, logprobs=True, **fields, **said)
        got[name] = [chunk.model_dump(mode="json", exclude_unset=True) for chunk in came]
    long = streaming.chunks(STORY, n=2, max_tokens=48, ignore_eos=True)
    named = {"type": "function", "function": {"name": "get_time"}}
    forced = streaming.chunks(ANIMAL, temperature=0, tools=TOOLS, tool_choice=named, parallel_tool_calls=False)
    for name, came in (("long", long), ("forced", forced)):
        got[name] = [chunk.model_dump(mode="json", exclude_unset=True) for chunk in came]
    return got


Streams = dict[str, list[dict[str, Any]]]


def choices(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]


def deltas(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [choice["delta"] for choice in choices(chunks, index)]


@pytest.mark.parametrize("fields", CHUNK_ROWS, ids=", ".join)
def test_chunk_field(fields: tuple[str, ...], streams: Streams) -> None:
    CHUNK_ROWS[fields](streams)


def test_the_chunks_have_these_fields_and_no_other(streams: Streams) -> None:
    came = set().union(*(paths(chunk) for got in streams.values() for chunk in got))
    of_tokens = {field for field in fields_of(ROWS) if field.startswith("token.")}
    assert came - of_tokens == fields_of(CHUNK_ROWS) and came > of_tokens


def chunk_row(*fields: str) -> Callable[[Any], Any]:
    return row(*fields, table=CHUNK_ROWS)


HEAD = ("id", "created", "model", "system_fingerprint", "object")


@chunk_row(*HEAD)
def _(streams: Streams) -> None:
    heads = set()
    for got in streams.values():
        [head] = {
            tuple(chunk[key] for key in ("id", "created", "model", "system_fingerprint", "object")) for chunk in got
        }
        assert head[0].startswith("chatcmpl-") and head[2] == "demo" and head[4] == "chat.completion.chunk"
        heads.add(head[0])
    assert len(heads) == len(streams)


@chunk_row("seed")
def _(streams: Streams) -> None:
    for name, got in streams.items():
        ends = [chunk["seed"] for chunk in got if "seed" in chunk]
        assert ends and (name != "story" or set(ends) == {7})


@chunk_row("usage", "choices", "usage.prompt_tokens", "usage.completion_tokens", "usage.total_tokens")
def _(streams: Streams) -> None:
    *others, last = streams["stopped"]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"] is None for chunk in others)
    assert not any("usage" in chunk for chunk in streams["calls"])
    *others, last = streams["story"]
    assert not any("usage" in chunk for chunk in others) and last["usage"]["completion_tokens"] == 16
    assert last["usage"]["total_tokens"] == 16 + last["usage"]["prompt_tokens"]


@chunk_row("choices[].index")
def _(streams: Streams) -> None:
    order = [choice["index"] for chunk in streams["long"] for choice in chunk["choices"]]
    assert order[:2] == [0, 1] == sorted(set(order)) and order[2:] != sorted(order[2:]), "one after the other"


@chunk_row("choices[].finish_reason")
def _(streams: Streams) -> None:
    for name, got in streams.items():
        *before, end = (choice["finish_reason"] for choice in choices(got))
        assert set(before) == {None}
        ends = {"thought": "stop", "stopped": "stop", "calls": "tool_calls", "forced": "tool_calls"}
        assert end == ends.get(name, "length")


@chunk_row("choices[].delta.role")
def _(streams: Streams) -> None:
    for got in streams.values():
        first, *rest = deltas(got)
        assert first == {"role": "assistant", "content": None} and not any("role" in delta for delta in rest)


@chunk_row("choices[].delta.content")
def _(streams: Streams) -> None:
    said = {name: "".join(delta.get("content") or "" for delta in deltas(got)) for name, got in streams.items()}
    assert said["stopped"] == "Once upon a time ther" and said["thought"] == "42" and said["calls"] == ""


@chunk_row("choices[].delta.reasoning_content")
def _(streams: Streams) -> None:
    thought = "".join(delta.get("reasoning_content") or "" for delta in deltas(streams["thought"]))
    assert "ones: 2 + 0" in thought and "<think>" not in thought
    assert not any("reasoning_content" in delta for delta in deltas(streams["story"]))


@chunk_row(
    *(f"choices[].delta.tool_calls[].{key}" for key in ("index", "id", "type", "function.name", "function.arguments"))
)
def _(streams: Streams) -> None:
    made: list[dict[str, Any]] = []
    for piece in (piece for delta in deltas(streams["calls"]) for piece in delta.get("tool_calls", ())):
        if piece["index"] == len(made):
            assert piece["type"] == "function" and piece["id"].startswith("call_")
            made.append({"name": piece["function"]["name"], "arguments": "", "pieces": 0})
        assert "name" not in piece["function"] or made[piece["index"]]["arguments"] == ""
        made[piece["index"]]["arguments"] += piece["function"].get("arguments", "")
        made[piece["index"]]["pieces"] += 1
    assert [(call["name"], json.loads(call["arguments"])) for call in made] == [
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "Rome"}),
    ]
    # However many of its tokens come at once, a forced call's pieces are one call.
    forced = [piece for delta in deltas(streams["forced"]) for piece in delta.get("tool_calls", ())]
    assert {piece["index"] for piece in forced} == {0} and "name" in forced[0]["function"]
    assert json.loads("".join(piece["function"].get("arguments", "") for piece in forced)).keys() == {"city"}


@chunk_row(
    "choices[].logprobs",
    *(f"choices[].logprobs.{kind}" for kind in (*LISTS, "refusal")),
)
def _(streams: Streams) -> None:
    for name, got in streams.items():
        lists: dict[str, list[Any]] = {kind: [] for kind in LISTS}
        for choice in choices(got):
            for kind in LISTS:
                lists[kind] += (choice["logprobs"] or {}).get(kind) or []
        filled = {
            "thought": {"content", "reasoning", "end"}, "calls": {"tool_calls", "end"}, "long": set(), "forced": set(),
        }  # fmt: skip
        assert {kind for kind in LISTS if lists[kind]} == filled.get(name, {"content"})
        if name == "stopped":
            assert [entry["token"] for entry in lists["content"]] == ["Once", " upon", " a", " time", " there"]
