"""The conformance table, first half: every field of the request, by what it changes in the answer.

One row a field, run in each of the three ways. A row shows an effect: that a field is accepted shows nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from llmlab.protocol.fields import NO_EFFECT
from llmlab.protocol.request import ChatRequest
from tests.contract.ways import Way, assert_laws, calls, ids, said
from tests.sampling.test_library import ORACLES
from tests.sampling.test_sequences import dry_lengths

ANIMAL = "Name an animal."
STORY = "Tell me a short story."
AGAIN = "Once there was a fox who lived in Oslo. Once there was a fox who lived in Oslo. Tell me a short story."
SUM = "What is 12 + 30?"
WEATHER = "What is the weather in Oslo?"
PAIR = "What is the weather in Oslo and in Rome?"


def tool(name: str, description: str) -> dict:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": city}}


TOOLS = [tool("get_weather", "Get the current weather in a city."), tool("get_time", "Get the current time in a city.")]
ROWS: dict[str, Callable[[Way], None]] = {}


def row(field: str) -> Callable[[Callable[[Way], None]], Callable[[Way], None]]:
    def keep(show: Callable[[Way], None]) -> Callable[[Way], None]:
        assert field not in ROWS
        ROWS[field] = show
        return show

    return keep


def test_the_table_has_every_field():
    assert set(ROWS) == set(ChatRequest.model_fields)


@pytest.mark.parametrize("field", ROWS)
def test_field(field: str, way: Way) -> None:
    ROWS[field](way)


# ---- what is asked


@row("messages")
def _(way: Way) -> None:
    user = {"role": "user", "content": ANIMAL}
    one = way.ask([user], temperature=0, logprobs=True)
    parts = [{"type": "text", "text": "Name an "}, {"type": "text", "text": "animal."}]
    joined = way.ask([{"role": "user", "content": parts}], temperature=0, logprobs=True)
    assert ids(joined) == ids(one) and joined.usage == one.usage
    told = way.ask([{"role": "system", "content": "Answer briefly."}, user], temperature=0)
    assert told.usage.prompt_tokens > one.usage.prompt_tokens
    past = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    trip = [
        {"role": "user", "content": WEATHER},
        {"role": "assistant", "content": None, "tool_calls": [past]},
        {"role": "tool", "tool_call_id": "c", "content": '{"temperature": 7, "sky": "rainy"}'},
    ]
    assert said(way.ask(trip, tools=TOOLS, temperature=0)) == "It is 7 degrees and rainy in Oslo."
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    for bad in ([], [{"role": "robot", "content": "hi"}], [{"role": "user", "content": image}]):
        assert way.refusal(bad)[:2] == (400, "messages")


@row("model")
def _(way: Way) -> None:
    assert way.ask(model="demo", max_tokens=1).model == "demo"
    refusal = way.refusal(model="another")
    assert refusal[:3] == (404, "model", "model_not_found") and "demo" in refusal.message


@row("continue_final_message")
def _(way: Way) -> None:
    chat = [{"role": "user", "content": STORY}, {"role": "assistant", "content": "Once there was"}]
    answer = way.ask(chat, continue_final_message=True, temperature=0, max_tokens=6)
    assert said(answer).startswith(" a ")
    assert way.refusal(chat[:1], continue_final_message=True)[:2] == (400, "continue_final_message")


# ---- how much of it


@row("max_tokens")
def _(way: Way) -> None:
    short, longer = (way.ask(STORY, max_tokens=k, seed=1, logprobs=True) for k in (5, 9))
    assert short.usage.completion_tokens == 5 and short.choices[0].finish_reason == "length"
    assert ids(longer)[:5] == ids(short) and longer.usage.completion_tokens == 9


@row("max_completion_tokens")
def _(way: Way) -> None:
    one, other = way.ask(STORY, max_tokens=5, seed=1), way.ask(STORY, max_completion_tokens=5, seed=1)
    assert said(one) == said(other) and other.usage.completion_tokens == 5
    assert way.refusal(max_tokens=5, max_completion_tokens=6)[:2] == (400, "max_tokens")


@row("context_length_exceeded_behavior")
def _(way: Way) -> None:
    window = way.lab.describe()["context"]
    full = "red " * (window - 40)
    fields = {"max_tokens": 400, "ignore_eos": True}
    answer = way.ask(full, context_length_exceeded_behavior="truncate", **fields)
    assert answer.usage.total_tokens == window and answer.choices[0].finish_reason == "length"
    refusal = way.refusal(full, context_length_exceeded_behavior="error", **fields)
    assert refusal[:3] == (400, "max_tokens", "context_length_exceeded")
    for behaviour in ("truncate", "error"):
        refusal = way.refusal("red " * window, context_length_exceeded_behavior=behaviour)
        assert refusal[:3] == (400, "messages", "context_length_exceeded")


@row("n")
def _(way: Way) -> None:
    three, five = (way.ask(STORY, n=n, seed=5, max_tokens=12) for n in (3, 5))
    texts = [choice.message.content for choice in five.choices]
    assert [choice.index for choice in five.choices] == [0, 1, 2, 3, 4]
    assert [choice.message.content for choice in three.choices] == texts[:3] and len(set(texts)) > 1
    assert five.usage.prompt_tokens == three.usage.prompt_tokens and five.usage.completion_tokens == 60


@row("min_tokens")
def _(way: Way) -> None:
    assert way.ask(temperature=0).usage.completion_tokens == 2
    assert way.ask(temperature=0, min_tokens=6, max_tokens=6).usage.completion_tokens == 6
    assert_laws(way, ANIMAL, temperature=1.0, min_tokens=3, max_tokens=4, seed=1)


@row("ignore_eos")
def _(way: Way) -> None:
    answer = way.ask(temperature=0, ignore_eos=True, max_tokens=8, logprobs=True)
    assert answer.usage.completion_tokens == 8 == len(ids(answer)) and answer.choices[0].finish_reason == "length"
    assert set(ids(answer)) & set(way.lab.backend.end_ids), "an end token that ended nothing"


@row("stop")
def _(way: Way) -> None:
    answer = way.ask(STORY, temperature=0, stop=["nowhere", " was"], max_tokens=30)
    assert said(answer) == "Once upon a time there was" and answer.choices[0].finish_reason == "stop"
    within = way.ask(STORY, temperature=0, stop="er", max_tokens=30)
    assert said(within) == "Once upon a time ther" and within.choices[0].finish_reason == "stop"


@row("stop_token_ids")
def _(way: Way) -> None:
    free = way.ask(STORY, temperature=0, max_tokens=30, logprobs=True)
    entries = free.choices[0].logprobs.content
    at = 5
    token = entries[at].token_id
    assert token not in [entry.token_id for entry in entries[:at]]
    text = "".join(entry.token for entry in entries[: at + 1])
    ended = way.ask(STORY, temperature=0, max_tokens=30, stop_token_ids=[token], logprobs=True)
    assert (said(ended), ended.choices[0].finish_reason, ended.usage.completion_tokens) == (text, "stop", at + 1)
    without = way.ask(STORY, temperature=0, max_tokens=30, stop_token_ids=[token], include_stop=False)
    assert said(without) == "".join(entry.token for entry in entries[:at])
    assert without.usage.completion_tokens == at + 1
    # The model's own end tokens may be ignored, these never; and min_tokens holds them back as it does those.
    over = way.ask(STORY, temperature=0, max_tokens=30, stop_token_ids=[token], ignore_eos=True)
    assert said(over) == text
    late = way.ask(STORY, temperature=0, max_tokens=30, stop_token_ids=[token], min_tokens=at + 3, logprobs=True)
    assert token not in [entry.token_id for entry in late.choices[0].logprobs.content[: at + 3]]
    refusal = way.refusal(stop_token_ids=[10**9])
    assert refusal[:2] == (400, "stop_token_ids") and "not in the vocabulary" in refusal.message


@row("return_token_ids")
def _(way: Way) -> None:
    fields = {"seed": 3, "n": 2, "max_tokens": 20, "return_token_ids": True}
    answer = way.ask(STORY, **fields, logprobs=True)
    assert answer.prompt_token_ids == way.lab.backend.render(way.lab.request(STORY)).tolist()
    for choice in answer.choices:
        listed = [entry.token_id for entry in choice.logprobs.content]
        ends = [] if choice.finish_reason == "length" else [way.lab.backend.end_ids[0]]
        assert choice.token_ids == listed + ends
    if way.name != "chat":
        got = way.chunks(STORY, **fields)
        assert got[0].prompt_token_ids == answer.prompt_token_ids
        for choice in answer.choices:
            parts = [
                c.token_ids
                for chunk in got
                for c in chunk.choices
                if c.index == choice.index and hasattr(c, "token_ids")
            ]
            assert sum(parts, []) == choice.token_ids
    assert not hasattr(way.ask(STORY, seed=3, max_tokens=3), "prompt_token_ids")


@row("include_stop")
def _(way: Way) -> None:
    fields = {"temperature": 0, "stop": " was", "max_tokens": 30}
    assert said(way.ask(STORY, **fields, include_stop=True)) == "Once upon a time there was"
    without = way.ask(STORY, **fields, include_stop=False)
    assert said(without) == "Once upon a time there" and without.choices[0].finish_reason == "stop"


# ---- the law that a token is drawn from


@row("seed")
def _(way: Way) -> None:
    ask = {"n": 6, "max_tokens": 8}
    same = [[c.message.content for c in way.ask(STORY, seed=5, **ask).choices] for _ in range(2)]
    others = [[c.message.content for c in way.ask(STORY, seed=s, **ask).choices] for s in (6, 2**32 + 5, -5)]
    assert same[0] == same[1] and same[0] not in others
    drawn = way.ask(STORY, **ask)
    again = way.ask(STORY, seed=drawn.seed, **ask)
    assert [c.message for c in again.choices] == [c.message for c in drawn.choices]


@row("prompt_logprobs")
def _(way: Way) -> None:
    answer = way.ask(ANIMAL, prompt_logprobs=2, max_tokens=1)
    prompt = way.lab.backend.render(way.lab.request(ANIMAL))
    assert (
        answer.prompt_logprobs[0] is None and len(answer.prompt_logprobs) == len(prompt) == answer.usage.prompt_tokens
    )
    for t, found in enumerate(answer.prompt_logprobs[1:], start=1):
        logits = way.lab.backend.next_logits(prompt[:t]).astype(np.float64)
        logprobs = logits - np.logaddexp.reduce(logits)
        best = np.argsort(-logits, kind="stable")
        assert set(found) == {str(prompt[t]), *map(str, best[:2])}
        for token, entry in found.items():
            assert entry["logprob"] == pytest.approx(logprobs[int(token)], abs=1e-4)
            assert entry["rank"] == 1 + best.tolist().index(int(token))
            assert entry["decoded_token"] == way.lab.backend.tokenizer.name(int(token))
    alone = way.ask(ANIMAL, prompt_logprobs=0, max_tokens=1).prompt_logprobs
    assert [list(entry) for entry in alone[1:]] == [[str(token)] for token in prompt[1:]]
    assert not hasattr(way.ask(ANIMAL, max_tokens=1), "prompt_logprobs")
    assert way.refusal(prompt_logprobs=21)[:2] == (400, "prompt_logprobs")


@row("temperature")
def _(way: Way) -> None:
    greedy = [way.ask(STORY, temperature=0, seed=seed, max_tokens=6, logprobs=True) for seed in (1, 2)]
    assert ids(greedy[0]) == ids(greedy[1])
    for entry in greedy[0].choices[0].logprobs.content:
        assert entry.rank == 1 and entry.kept == 1 and entry.sampling_logprob == 0
    warm, hot = (assert_laws(way, ANIMAL, temperature=t, seed=1, max_tokens=1) for t in (0.5, 2.0))
    for answer, t in ((warm, 0.5), (hot, 2.0)):
        first, second = answer.choices[0].logprobs.content[0].top_logprobs[:2]
        raw = first.logprob - second.logprob
        assert first.sampling_logprob - second.sampling_logprob == pytest.approx(raw / t, abs=1e-3)


@row("top_k")
def _(way: Way) -> None:
    best = ids(way.ask(STORY, temperature=0, max_tokens=6, logprobs=True))
    assert ids(way.ask(STORY, top_k=1, temperature=2, seed=3, max_tokens=6, logprobs=True)) == best
    answer = assert_laws(way, STORY, top_k=7, temperature=2.0, seed=3, max_tokens=5)
    assert {entry.kept for entry in answer.choices[0].logprobs.content} == {7}


@row("top_p")
def _(way: Way) -> None:
    answer = assert_laws(way, ANIMAL, top_p=0.5, seed=2, max_tokens=1)
    entry = answer.choices[0].logprobs.content[0]
    before = np.cumsum([0.0, *(np.exp(other.logprob) for other in entry.top_logprobs)])[:-1]
    assert 1 < entry.kept == (before < 0.5).sum() < 20


@row("min_p")
def _(way: Way) -> None:
    answer = assert_laws(way, ANIMAL, min_p=0.3, seed=2, max_tokens=1)
    entry = answer.choices[0].logprobs.content[0]
    ratio = np.exp([other.logprob - entry.top_logprobs[0].logprob for other in entry.top_logprobs])
    assert 1 < entry.kept == (ratio >= 0.3).sum() < 20


def moved(way: Way, amount: Callable[[int], float], **fields: float) -> None:
    """A penalty moves a token's logit, against a token never seen, by what its count says."""
    answer = assert_laws(way, STORY, **fields, seed=4, max_tokens=24, ignore_eos=True)
    made, seen = [], set()
    for entry in answer.choices[0].logprobs.content:
        new = next(other for other in entry.top_logprobs if other.token_id not in made)
        for other in entry.top_logprobs:
            count = made.count(other.token_id)
            shift = (other.sampling_logprob - new.sampling_logprob) - (other.logprob - new.logprob)
            assert shift == pytest.approx(amount(count), abs=5e-3), other.token
            seen.add(count)
        made.append(entry.token_id)
    assert seen >= {0, 1, 2}


@row("frequency_penalty")
def _(way: Way) -> None:
    moved(way, lambda count: -0.75 * count, frequency_penalty=0.75)


@row("presence_penalty")
def _(way: Way) -> None:
    moved(way, lambda count: 0.75 * (count > 0), presence_penalty=-0.75)


@row("repetition_penalty")
def _(way: Way) -> None:
    answer = assert_laws(way, ANIMAL, repetition_penalty=1.7, seed=4, max_tokens=3, ignore_eos=True)
    prompt = set(way.lab.backend.render(way.lab.request(ANIMAL)).tolist())
    for t, (entry, _, logits) in enumerate(way.laws(answer, ANIMAL, repetition_penalty=1.7)):
        seen = prompt | set(ids(answer)[:t])
        new = next(other for other in entry.top_logprobs if other.token_id not in seen)
        assert seen & {other.token_id for other in entry.top_logprobs} or t == 0
        for other in entry.top_logprobs:
            raw = float(logits[other.token_id])
            expected = (raw / 1.7 if raw > 0 else raw * 1.7) - raw if other.token_id in seen else 0.0
            shift = (other.sampling_logprob - new.sampling_logprob) - (other.logprob - new.logprob)
            assert shift == pytest.approx(expected, abs=5e-3)


# ---- the library's stages; tests/sampling/test_library.py and test_sequences.py hold them against oracles more widely


def one_token(way: Way, messages: str = ANIMAL, **fields: object) -> tuple[Any, np.ndarray]:
    """The entry of an answer's first token at temperature 1, and the raw logits [V] that it was drawn from, float64."""
    answer = way.ask(messages, **fields, seed=2, max_tokens=1, logprobs=True, top_logprobs=20)
    prompt = way.lab.backend.render(way.lab.request(messages))
    return answer.choices[0].logprobs.content[0], way.lab.backend.next_logits(prompt).astype(np.float64)


def drawn_from(entry: Any, final: np.ndarray) -> None:
    """The sampling logprobs of an entry are those of these logits, in which removed tokens have -inf."""
    expected = final - np.logaddexp.reduce(final)
    for other in (entry, *entry.top_logprobs):
        want = max(float(expected[other.token_id]), -9999.0)
        assert want < -20 or other.sampling_logprob == pytest.approx(want, abs=5e-3), other.token


def truncated(field: str, value: float, bad: float) -> None:
    @row(field)
    def _(way: Way) -> None:
        entry, logits = one_token(way, **{field: value})
        kept = ORACLES[field](logits, {field: value}) > 0
        assert 1 < entry.kept == kept.sum() < len(logits)
        drawn_from(entry, np.where(kept, logits, -np.inf))
        assert way.refusal(**{field: bad})[:2] == (400, field)


truncated("top_n_sigma", 2.5, -1)
truncated("typical_p", 0.5, 0)
truncated("epsilon_cutoff", 0.02, 1.5)
truncated("eta_cutoff", 0.02, -0.1)
truncated("p_less", 1, 3)


@row("top_h")
def _(way: Way) -> None:
    entry, logits = one_token(way, top_h=0.6)
    front = np.lexsort((np.arange(len(logits)), -logits))
    kept = np.zeros(len(logits), bool)
    kept[front[: entry.kept]] = True
    assert 1 < entry.kept < 100 and one_token(way, top_h=0.9)[0].kept > entry.kept
    drawn_from(entry, np.where(kept, logits, -np.inf))
    assert way.refusal(top_h=1.5)[:2] == (400, "top_h")


def without_top_choices(logits: np.ndarray, threshold: float) -> np.ndarray:
    """The logits without the tokens of at least this probability, but for the least likely of them."""
    probs = np.exp(logits - np.logaddexp.reduce(logits))
    top = [i for i in np.lexsort((np.arange(len(logits)), -logits)) if probs[i] >= threshold]
    left = logits.copy()
    left[top[:-1]] = -np.inf
    return left


@row("xtc_probability")
def _(way: Way) -> None:
    entry, logits = one_token(way, xtc_probability=1, xtc_threshold=0.05)
    left = without_top_choices(logits, 0.05)
    assert entry.kept == np.isfinite(left).sum() < len(logits)
    drawn_from(entry, left)
    never, _ = one_token(way, xtc_probability=0, xtc_threshold=0.05)
    assert never.kept == len(logits)
    assert way.refusal(xtc_probability=1.5)[:2] == (400, "xtc_probability")


@row("xtc_threshold")
def _(way: Way) -> None:
    kept = []
    for threshold in (0.02, 0.2):
        entry, logits = one_token(way, xtc_probability=1, xtc_threshold=threshold)
        drawn_from(entry, without_top_choices(logits, threshold))
        kept.append(entry.kept)
    assert kept[0] < kept[1]
    assert way.refusal(xtc_threshold=0)[:2] == (400, "xtc_threshold")


def smoothed(field: str, **fields: float) -> None:
    @row(field)
    def _(way: Way) -> None:
        entry, logits = one_token(way, **fields)
        factor, curve = fields["smoothing_factor"], fields.get("smoothing_curve", 1.0)
        away = logits - logits.max()
        drawn_from(entry, -(3 - curve) / 2 * factor * away**2 + (curve - 1) / 2 * factor * away**3)
        assert way.refusal(**{field: -1})[:2] == (400, field)


smoothed("smoothing_factor", smoothing_factor=0.3)
smoothed("smoothing_curve", smoothing_factor=0.1, smoothing_curve=2.0)


def varied(field: str, **fields: float) -> None:
    @row(field)
    def _(way: Way) -> None:
        entry, logits = one_token(way, **fields, temperature=0.9)
        probs = np.exp(logits - np.logaddexp.reduce(logits))
        share = -(probs * np.log(probs)).sum() / np.log(len(probs))
        low, high = 0.9 - fields["dynatemp_range"], 0.9 + fields["dynatemp_range"]
        drawn_from(entry, logits / (low + (high - low) * share ** fields.get("dynatemp_exponent", 1.0)))
        assert way.refusal(**{field: -1})[:2] == (400, field)


varied("dynatemp_range", dynatemp_range=0.5)
varied("dynatemp_exponent", dynatemp_range=0.5, dynatemp_exponent=0.4)


def compared(field: str, bad: object, **fields: Any) -> None:
    """Guidance and contrastive decoding in float64: the logprobs after two prompts, combined; the raw ones stay."""

    @row(field)
    def _(way: Way) -> None:
        asked = {"negative_prompt": STORY, **fields}
        entry, logits = one_token(way, **asked)
        prompts = {
            "text": way.lab.backend.render(way.lab.request(STORY)).tolist(),
            "last": way.lab.backend.render(way.lab.request(ANIMAL)).tolist()[-1:],
        }

        def other(negative: str) -> np.ndarray:
            return normed(way.lab.backend.next_logits(np.array(prompts[negative], np.int32)).astype(np.float64))

        def final(negative: np.ndarray) -> np.ndarray:
            if "guidance_scale" in asked:
                return negative + asked["guidance_scale"] * (own - negative)
            left = np.exp(own) >= asked.get("contrastive_alpha", 0.1) * np.exp(own.max())
            return np.where(left, own - asked["contrastive_strength"] * negative, -np.inf)

        own = normed(logits)
        drawn_from(entry, final(other("text")))
        assert entry.logprob == pytest.approx(own[entry.token_id], abs=1e-3)
        for same in ([{"role": "user", "content": STORY}], prompts["text"]):
            again, _ = one_token(way, **{**asked, "negative_prompt": same})
            assert (again.token_id, again.sampling_logprob) == (entry.token_id, entry.sampling_logprob)
        alone, _ = one_token(way, **{name: value for name, value in asked.items() if name != "negative_prompt"})
        drawn_from(alone, final(other("last")))
        assert way.refusal(**{field: bad})[:2] == (400, field)
        assert way.refusal(negative_prompt=STORY)[:2] == (400, "negative_prompt")
        assert way.refusal(guidance_scale=2, negative_prompt="red " * 5000)[:3] == (
            400, "negative_prompt", "context_length_exceeded"
        )  # fmt: skip


def normed(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits)


compared("guidance_scale", -1, guidance_scale=2.5)
compared("negative_prompt", [], guidance_scale=0.5)
compared("contrastive_strength", -0.1, contrastive_strength=1)
compared("contrastive_alpha", 2, contrastive_strength=0.7, contrastive_alpha=0.01)


def steered(field: str, bad: object, said: str = "", **fields: float) -> None:
    """Mirostat 2 in float64 along an answer: its limit begins at 2 tau, and follows the surprise of what was drawn."""

    @row(field)
    def _(way: Way) -> None:
        asked = {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.1, **fields}
        more = {"temperature": 1.5, "max_tokens": 6, "seed": 3, "ignore_eos": True}
        answer = way.ask(STORY, **asked, **more, logprobs=True, top_logprobs=20)
        limit, limits, kept = 2 * asked["mirostat_tau"], [], []
        for entry, _, raw in way.laws(answer, STORY):
            logits = raw.astype(np.float64) / 1.5
            surprise = -(logits - np.logaddexp.reduce(logits)) / np.log(2)
            left = np.where((surprise <= limit) | (surprise == surprise.min()), logits, -np.inf)
            assert entry.kept == np.isfinite(left).sum()
            drawn_from(entry, left)
            kept.append(entry.kept)
            limits.append(limit)
            limit -= asked["mirostat_eta"] * (-entry.sampling_logprob / np.log(2) - asked["mirostat_tau"])
        assert len(set(kept)) > 1 and max(limits) - min(limits) > asked["mirostat_eta"]
        assert way.refusal(**{field: bad})[:2] == (400, field) and said in way.refusal(**{field: bad}).message


steered("mirostat", 1, "only version 2 is offered")
steered("mirostat_tau", -1, mirostat_tau=1.5)
steered("mirostat_eta", 2, mirostat_eta=0.9)


def adapted(field: str, bad: float, **fields: float) -> None:
    """Adaptive-p in float64 along an answer: logits fall with the distance of a token's probability from the wanted."""

    @row(field)
    def _(way: Way) -> None:
        asked = {"adaptive_target": 0.3, "adaptive_decay": 0.9, **fields}
        more = {"temperature": 1.5, "max_tokens": 6, "seed": 3, "ignore_eos": True}
        answer = way.ask(STORY, **asked, **more, logprobs=True, top_logprobs=20)
        target, decay = asked["adaptive_target"], asked["adaptive_decay"]
        weighted, weight, wanted = target / (1 - decay), 1 / (1 - decay), []
        for entry, _, raw in way.laws(answer, STORY):
            logits = raw.astype(np.float64) / 1.5
            probs = np.exp(logits - np.logaddexp.reduce(logits))
            wanted.append(min(max(2 * target - weighted / weight, 0), 1))
            distance = np.abs(probs - wanted[-1]) / 0.3
            drawn_from(entry, 5 - 10 * distance**2 / (1 + distance))
            weighted = probs[entry.token_id] + decay * weighted
            weight = 1 + decay * weight
        assert max(wanted) - min(wanted) > 0.01
        assert way.refusal(**{field: bad})[:2] == (400, field)


adapted("adaptive_target", 1.5)
adapted("adaptive_decay", 1, adaptive_decay=0.3)


@row("no_repeat_ngram_size")
def _(way: Way) -> None:
    asked = {"seed": 3, "max_tokens": 40, "ignore_eos": True, "logprobs": True}
    prompt = way.lab.backend.render(way.lab.request(STORY)).tolist()
    for size, twice in ((0, True), (1, False), (2, False)):
        text = prompt + ids(way.ask(STORY, **asked, temperature=0.7, no_repeat_ngram_size=size))
        grams = [tuple(text[at : at + (size or 1)]) for at in range(len(text) - (size or 1) + 1)]
        new = grams[len(prompt) - (size or 1) + 1 :]
        assert (len({*new} & {*grams[: len(grams) - len(new)]}) + len(new) - len({*new}) > 0) is twice
    assert way.refusal(no_repeat_ngram_size=-1)[:2] == (400, "no_repeat_ngram_size")


def repeated(field: str, bad: object, **fields: Any) -> None:
    """A token that would extend a repetition of earlier text loses what the length of that says, against all others."""

    @row(field)
    def _(way: Way) -> None:
        asked = {"dry_multiplier": 0.5, "dry_allowed_length": 1, "dry_sequence_breakers": [], **fields}
        more = {"n": 6, "max_tokens": 48, "temperature": 0.5, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
        answer = way.ask(AGAIN, **asked, **more, seed=4)
        texts = [text.encode() for text in asked["dry_sequence_breakers"]]
        known = way.lab.backend.token_bytes
        breakers = {i for i, raw in enumerate(known) if raw is not None and any(text in raw for text in texts)}
        base, allowed = asked.get("dry_base", 1.75), asked["dry_allowed_length"]
        prompt, seen = way.lab.backend.render(way.lab.request(AGAIN)).tolist(), set()
        for choice in answer.choices:
            text = list(prompt)
            for entry in choice.logprobs.content:
                lengths = dry_lengths(text, breakers, asked.get("dry_penalty_last_n", -1))
                new = next(other for other in entry.top_logprobs if lengths.get(other.token_id, 0) < allowed)
                for other in entry.top_logprobs:
                    match = lengths.get(other.token_id, 0)
                    shift = (other.sampling_logprob - new.sampling_logprob) - (other.logprob - new.logprob) / 0.5
                    penalty = asked["dry_multiplier"] * base ** (match - allowed) if match >= allowed else 0.0
                    assert shift == pytest.approx(-penalty / 0.5, abs=1e-2), (other.token, match)
                    seen.add(match)
                text.append(entry.token_id)
        assert max(seen) >= allowed, "something was repeated"
        assert way.refusal(**{field: bad})[:2] == (400, field)


repeated("dry_multiplier", -1, dry_multiplier=0.8)
repeated("dry_base", 0.5, dry_base=3.0)
repeated("dry_allowed_length", 0, dry_allowed_length=2, dry_multiplier=0.05)
repeated("dry_penalty_last_n", -2, dry_penalty_last_n=12)
repeated("dry_sequence_breakers", [5], dry_sequence_breakers=[" a"])


@row("logit_bias")
def _(way: Way) -> None:
    tokenizer = way.lab.backend.tokenizer
    [token] = tokenizer.encode(" the")
    forced = assert_laws(way, ANIMAL, logit_bias={str(token): 100}, seed=1, max_tokens=4)
    assert ids(forced) == [token] * 4
    entry = forced.choices[0].logprobs.content[0]
    assert entry.logprob < -1 and entry.sampling_logprob == pytest.approx(0, abs=1e-3)
    best = ids(way.ask(temperature=0, logprobs=True))[0]
    assert ids(way.ask(temperature=0, logprobs=True, logit_bias={str(best): -100}))[0] != best
    assert way.refusal(logit_bias={"999999": 1})[:2] == (400, "logit_bias")


# ---- what is told about it


@row("logprobs")
def _(way: Way) -> None:
    assert way.ask(seed=1).choices[0].logprobs is None
    answer = way.ask(STORY, seed=1, logprobs=True, max_tokens=5)
    assert len(answer.choices[0].logprobs.content) == 5
    for entry, _, logits in way.laws(answer, STORY):
        raw = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert entry.logprob == pytest.approx(float(raw[entry.token_id]), abs=1e-3) and entry.top_logprobs == []


@row("top_logprobs")
def _(way: Way) -> None:
    answer = way.ask(STORY, seed=1, logprobs=True, top_logprobs=4, max_tokens=5)
    for entry, _, logits in way.laws(answer, STORY):
        order = np.lexsort((np.arange(len(logits)), -logits))[:4]
        assert [other.token_id for other in entry.top_logprobs] == order.tolist()
    assert way.refusal(top_logprobs=4)[:2] == (400, "top_logprobs")


@row("logprob_token_ids")
def _(way: Way) -> None:
    ids = [5, 300, 5, 900]
    answer = way.ask(STORY, seed=1, logprobs=True, top_logprobs=2, logprob_token_ids=ids, temperature=0.5, max_tokens=5)
    for entry, truth, logits in way.laws(answer, STORY, temperature=0.5):
        best = np.lexsort((np.arange(len(logits)), -logits))[:2].tolist()
        assert [other.token_id for other in entry.top_logprobs] == best + [i for i in (5, 300, 900) if i not in best]
        raw = logits - np.logaddexp.reduce(logits)
        for other in entry.top_logprobs:
            assert other.logprob == pytest.approx(raw[other.token_id], abs=1e-4)
            assert other.sampling_logprob == pytest.approx(np.log(truth.probs[other.token_id]), abs=1e-4)
    alone = way.ask(STORY, seed=1, logprobs=True, logprob_token_ids=[7], max_tokens=2)
    assert [[o.token_id for o in e.top_logprobs] for e in alone.choices[0].logprobs.content] == [[7], [7]]
    assert way.refusal(logprob_token_ids=[7])[:2] == (400, "logprob_token_ids")
    assert way.refusal(logprobs=True, logprob_token_ids=[10**9])[:2] == (400, "logprob_token_ids")
    assert way.refusal(logprobs=True, logprob_token_ids=list(range(21)))[:2] == (400, "logprob_token_ids")


@row("kept_logprobs")
def _(way: Way) -> None:
    """All tokens that top_p left, by id, most likely first; null where they are more than the 20 that are recorded."""
    asked = {"seed": 1, "temperature": 0.8, "top_p": 0.8, "max_tokens": 6, "logprobs": True, "kept_logprobs": True}
    answer = way.ask(STORY, **asked)
    for entry, truth, logits in way.laws(answer, STORY, temperature=0.8, top_p=0.8):
        left = np.flatnonzero(truth.probs)
        wanted = left[np.lexsort((left, -logits[left]))].tolist()
        listed = [other if isinstance(other, dict) else other.model_dump() for other in entry.kept_logprobs]
        assert [other["token_id"] for other in listed] == wanted and entry.kept == len(wanted)
        for other in listed:
            assert other["sampling_logprob"] == pytest.approx(np.log(truth.probs[other["token_id"]]), abs=1e-4)
        assert entry.top_logprobs == []
    wide = way.ask(STORY, **{**asked, "top_p": 1, "max_tokens": 2})
    assert [entry.kept_logprobs for entry in wide.choices[0].logprobs.content] == [None, None]
    plain = way.ask(STORY, seed=1, max_tokens=1, logprobs=True)
    assert not hasattr(plain.choices[0].logprobs.content[0], "kept_logprobs")
    assert way.refusal(kept_logprobs=True)[:2] == (400, "kept_logprobs")


@row("stream")
def _(way: Way) -> None:
    if way.name == "chat":  # a whole answer is what it gives; there is another method for the other thing
        assert way.refusal(stream=True)[:2] == (400, "stream")
        return
    got = way.chunks(STORY, seed=1, max_tokens=12)
    texts = [choice.delta.content or "" for chunk in got for choice in chunk.choices]
    assert len(got) > 2 and "".join(texts) == said(way.ask(STORY, seed=1, max_tokens=12))


@row("stream_options")
def _(way: Way) -> None:
    if way.name == "chat":
        assert way.refusal(stream_options={"include_usage": True})[:2] == (400, "stream_options")
        return
    spent = way.ask(seed=1).usage
    asked, refused, absent = (
        way.chunks(seed=1, stream_options=o) for o in ({"include_usage": True}, {"include_usage": False}, None)
    )
    running = way.chunks(seed=1, stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk.usage.completion_tokens for chunk in running]
    assert counts == sorted(counts) and counts[0] == 0 and running[-1].usage == spent
    assert all(chunk.usage.prompt_tokens == spent.prompt_tokens for chunk in running)
    assert way.chunks(seed=1, stream_options={"include_obfuscation": False})[-1].choices[0].finish_reason
    assert way.refusal(stream_options={"continuous_usage_stats": True})[:2] == (400, "stream_options")
    assert asked[-1].choices == [] and asked[-1].usage == spent
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in asked[:-1])
    assert not any("usage" in chunk.model_fields_set for chunk in refused)
    assert absent[-1].choices[0].finish_reason and absent[-1].usage == spent


# ---- forms of an answer


@row("response_format")
def _(way: Way) -> None:
    assert said(way.ask(temperature=0, response_format={"type": "text"})) == said(way.ask(temperature=0))
    free = way.ask(temperature=0.7, seed=2, n=4, response_format={"type": "json_object"}, max_tokens=60)
    ended = [choice.message.content for choice in free.choices if choice.finish_reason == "stop"]
    assert ended and all(isinstance(json.loads(text), dict) for text in ended)
    schema = {
        "type": "object",
        "properties": {
            "animal": {"enum": ["Okapi", "Narwhal"]},
            "legs": {"type": "integer", "minimum": 2, "maximum": 8},
        },
        "required": ["animal", "legs"],
        "additionalProperties": False,
    }
    for strict in (True, False):
        form = {"type": "json_schema", "json_schema": {"name": "a", "strict": strict, "schema": schema}}
        answer = way.ask(temperature=1.5, seed=1, response_format=form, max_tokens=60, logprobs=True)
        jsonschema.validate(json.loads(said(answer)), schema)
        assert answer.choices[0].finish_reason == "stop"
    form["json_schema"]["schema"] = {"type": "array", "uniqueItems": True}
    refusal = way.refusal(response_format=form)
    assert refusal[:2] == (400, "response_format") and "uniqueItems" in refusal.message


@row("structured_outputs")
def _(way: Way) -> None:
    ask = {"temperature": 1.5, "max_tokens": 40}
    for seed in range(3):
        assert said(way.ask(STORY, seed=seed, structured_outputs={"choice": ["yes", "no"]}, **ask)) in ("yes", "no")
        number = said(way.ask(STORY, seed=seed, structured_outputs={"regex": "-?[0-9]{2,4}"}, **ask))
        assert re.fullmatch("-?[0-9]{2,4}", number)
        rule = 'start: "<" /[a-z]{1,5}/ ">"'
        assert re.fullmatch(
            "<[a-z]{1,5}>", said(way.ask(STORY, seed=seed, structured_outputs={"grammar": rule}, **ask))
        )
        schema = {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        }
        assert json.loads(said(way.ask(STORY, seed=seed, structured_outputs={"json": schema}, **ask)))["a"] in (1, 2)
    whole = way.ask(STORY, structured_outputs={"json_object": True}, temperature=0.5, seed=2, n=4, max_tokens=60)
    ended = [choice.message.content for choice in whole.choices if choice.finish_reason == "stop"]
    assert ended and all(isinstance(json.loads(text), dict) for text in ended)
    for wrong, says in (
        ({"regex": "("}, "structured_outputs.regex"),
        ({"grammar": "start: other"}, "structured_outputs"),
        ({"json": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}, "uniqueItems"),
        ({"regex": "a", "choice": ["b"]}, "must have one of regex, choice, grammar, json, json_object"),
        ({"guided": 1}, "structured_outputs.guided"),
    ):
        refusal = way.refusal(STORY, structured_outputs=wrong)
        assert refusal[:2] == (400, "structured_outputs") and says in refusal.message
    both = {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}
    assert way.refusal(STORY, **both)[:2] == (400, "structured_outputs")


@row("bad_words")
def _(way: Way) -> None:
    free = said(way.ask(STORY, temperature=0, max_tokens=40))
    assert "there" in free and "was" in free
    without = way.ask(STORY, temperature=0, max_tokens=40, bad_words=["there", "was"])
    assert said(without)[:10] == free[:10] and not {"there", "was"} & set(re.findall("there|was", said(without)))
    many = way.ask(STORY, seed=1, n=8, max_tokens=60, bad_words=["e"])
    assert not any("e" in choice.message.content for choice in many.choices)
    assert way.refusal(bad_words=[""])[:2] == (400, "bad_words")
    assert way.refusal(bad_words=["a"], response_format={"type": "json_object"})[:2] == (400, "bad_words")


@row("allowed_token_ids")
def _(way: Way) -> None:
    ids = [*range(20, 40), *way.lab.backend.end_ids]
    answer = way.ask(STORY, seed=1, temperature=1.5, max_tokens=30, allowed_token_ids=ids, return_token_ids=True)
    assert set(answer.choices[0].token_ids) <= set(ids)
    one = way.ask(STORY, max_tokens=3, allowed_token_ids=[30], return_token_ids=True)
    assert one.choices[0].token_ids == [30, 30, 30] and one.choices[0].finish_reason == "length"
    assert way.refusal(allowed_token_ids=[10**9])[:2] == (400, "allowed_token_ids")


@row("tools")
def _(way: Way) -> None:
    plain, answer = way.ask(WEATHER, temperature=0), way.ask(WEATHER, temperature=0, tools=TOOLS)
    assert plain.choices[0].message.tool_calls is None and plain.choices[0].finish_reason == "stop"
    assert calls(answer) == [("get_weather", {"city": "Oslo"})] and answer.choices[0].finish_reason == "tool_calls"
    assert said(answer) is None and answer.usage.prompt_tokens > plain.usage.prompt_tokens
    assert way.refusal(tools=[])[:2] == (400, "tools")


@row("tool_choice")
def _(way: Way) -> None:
    ask = {"tools": TOOLS, "temperature": 0, "max_tokens": 60}
    none = way.ask(WEATHER, tool_choice="none", **ask)
    assert none.choices[0].message.tool_calls is None and none.choices[0].finish_reason == "stop"
    assert calls(way.ask(WEATHER, tool_choice="auto", **ask)) == [("get_weather", {"city": "Oslo"})]
    assert calls(way.ask(ANIMAL, tool_choice="auto", **ask)) == []
    [(name, arguments), *_] = calls(way.ask(ANIMAL, tool_choice="required", **ask))
    assert name in ("get_weather", "get_time") and isinstance(arguments["city"], str)
    named = {"type": "function", "function": {"name": "get_time"}}
    [(name, arguments), *_] = calls(way.ask(WEATHER, tool_choice=named, **ask))
    assert name == "get_time" and isinstance(arguments["city"], str)
    assert way.refusal(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "f"}})[1] == "tool_choice"


@row("parallel_tool_calls")
def _(way: Way) -> None:
    ask = {"tools": TOOLS, "temperature": 0}
    both = [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    assert calls(way.ask(PAIR, **ask)) == both
    one = way.ask(PAIR, **ask, parallel_tool_calls=False)
    assert calls(one) == both[:1] and one.choices[0].finish_reason == "tool_calls"


# ---- reasoning


@row("enable_thinking")
def _(way: Way) -> None:
    thought, straight = (way.ask(SUM, enable_thinking=on, temperature=0) for on in (True, False))
    assert said(straight) == "42" and said(thought).startswith("<think>") and said(thought).endswith("42")


@row("reasoning_effort")
def _(way: Way) -> None:
    for effort, on in (("none", False), ("low", True), ("high", True)):  # the embedded model's template has a switch
        by_effort, by_switch = (
            way.ask(SUM, **f, temperature=0) for f in ({"reasoning_effort": effort}, {"enable_thinking": on})
        )
        assert said(by_effort) == said(by_switch) and by_effort.usage == by_switch.usage
    assert way.refusal(SUM, reasoning_effort="some")[:2] == (400, "reasoning_effort")
    assert way.refusal(SUM, reasoning_effort="none", enable_thinking=True)[:2] == (400, "reasoning_effort")


@row("separate_reasoning")
def _(way: Way) -> None:
    ask = {"enable_thinking": True, "temperature": 0}
    joined, apart = way.ask(SUM, **ask), way.ask(SUM, **ask, separate_reasoning=True)
    assert said(apart) == "42" and "ones: 2 + 0" in apart.choices[0].message.reasoning_content
    assert "reasoning_content" not in (joined.choices[0].message.model_extra or {})
    assert apart.choices[0].message.reasoning_content in said(joined) and apart.usage == joined.usage


@row("chat_template_kwargs")
def _(way: Way) -> None:
    by_name, by_field = (
        way.ask(SUM, temperature=0, **fields)
        for fields in ({"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True})
    )
    assert said(by_name) == said(by_field) and by_name.usage == by_field.usage
    refusal = way.refusal(chat_template_kwargs={"mood": "dry"})
    assert refusal[:2] == (400, "chat_template_kwargs") and "mood" in refusal.message


# ---- accepted, and without effect on a local engine


def no_effect(field: str, value: object) -> None:
    @row(field)
    def _(way: Way) -> None:
        assert field in NO_EFFECT
        ask = {"seed": 1, "max_tokens": 8, "logprobs": True}
        assert way.ask(STORY, **ask, **{field: value}).choices == way.ask(STORY, **ask).choices


no_effect("user", "u")
no_effect("metadata", {"a": "b"})
no_effect("store", True)
no_effect("service_tier", "auto")
no_effect("safety_identifier", "a1b2")
no_effect("prompt_cache_key", "study-7")
no_effect("prompt_cache_retention", "24h")
no_effect("verbosity", "low")
no_effect("modalities", ["text"])
no_effect("prediction", {"type": "content", "content": "Once"})


# ---- and no other


def test_an_unknown_field_is_refused_with_the_nearest_name(way: Way) -> None:
    refusal = way.refusal(temprature=1)
    assert refusal[:2] == (400, "temprature") and "'temperature'" in refusal.message
