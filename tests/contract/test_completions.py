"""The conformance table of `/v1/completions`: every field of the request, by what it changes in the answers.

One row a field, asked through `lab.client()` and through the `openai` client of `llmlab serve`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import Completion

from llmlab.lab.lab import Lab
from llmlab.protocol.completions_request import CompletionsFields
from llmlab.protocol.fields import NO_EFFECT

ONCE, THERE = "Once upon a time", "There was a fox 🦊 in the"
KNOWN = set(inspect.signature(openai.resources.Completions.create).parameters)
ROWS: dict[str, Callable[[Way], None]] = {}


class Way:
    """One way to ask."""

    def __init__(self, lab: Lab, client: openai.OpenAI) -> None:
        self.lab, self._client = lab, client

    def ask(self, prompt: Any = ONCE, **fields: Any) -> Completion:
        """The whole answers."""
        known = {name: value for name, value in fields.items() if name in KNOWN}
        extra = {name: value for name, value in fields.items() if name not in KNOWN}
        return self._client.completions.create(**{"model": "demo", "prompt": prompt, **known, "extra_body": extra})

    def chunks(self, prompt: Any = ONCE, **fields: Any) -> list[Completion]:
        """The answers' chunks."""
        return list(self.ask(prompt, stream=True, **fields))

    def refusal(self, prompt: Any = ONCE, **fields: Any) -> tuple[int, str | None]:
        """Status and field of a refusal; fails where there is none."""
        with pytest.raises(openai.APIStatusError) as caught:
            self.ask(prompt, **fields)
        return caught.value.status_code, caught.value.param


@pytest.fixture(scope="session", params=["client", "http"])
def way(request: pytest.FixtureRequest, client: openai.OpenAI, demo: Lab) -> Iterator[Way]:
    if request.param == "http":
        yield Way(demo, client)
    else:
        with demo.client() as own:
            yield Way(demo, own)


def row(field: str) -> Callable[[Callable[[Way], None]], Callable[[Way], None]]:
    def keep(show: Callable[[Way], None]) -> Callable[[Way], None]:
        assert field not in ROWS
        ROWS[field] = show
        return show

    return keep


def test_the_table_has_every_field() -> None:
    assert set(ROWS) | set(SAMPLING) | NO_EFFECT >= set(CompletionsFields.model_fields) >= set(ROWS) | set(SAMPLING)


@pytest.mark.parametrize("field", ROWS)
def test_field(field: str, way: Way) -> None:
    ROWS[field](way)


#: Fields that mean what they mean in `lab.complete`: a value, and what else is asked so that it shows.
SAMPLING: dict[str, tuple[Any, dict[str, Any]]] = {
    "temperature": (0, {}),
    "top_k": (1, {}),
    "top_p": (0.1, {}),
    "min_p": (0.9, {}),
    "frequency_penalty": (2.0, {"temperature": 0, "ignore_eos": True, "max_tokens": 48}),
    "presence_penalty": (2.0, {"temperature": 0, "ignore_eos": True, "max_tokens": 48}),
    "repetition_penalty": (1.9, {"temperature": 0}),
    "logit_bias": ({"300": 100}, {}),
    "min_tokens": (12, {"logit_bias": {"2041": 30}}),
    "ignore_eos": (True, {"logit_bias": {"2041": 100}}),
    "seed": (8, {}),
    "stop": (["e"], {}),
    "stop_token_ids": ([300], {"logit_bias": {"300": 12}}),
    "include_stop": (False, {"stop": "e"}),
    "response_format": ({"type": "json_object"}, {}),
    "structured_outputs": ({"choice": ["yes", "no"]}, {}),
    "bad_words": ([" a", " the", " it"], {"temperature": 0}),
    "allowed_token_ids": ([30, 31, 300], {}),
    "top_n_sigma": (0.5, {}),
    "top_h": (0.05, {}),
    "typical_p": (0.05, {}),
    "epsilon_cutoff": (0.3, {}),
    "eta_cutoff": (0.3, {}),
    "p_less": (1, {}),
    "xtc_probability": (1, {}),
    "xtc_threshold": (0.01, {"xtc_probability": 1}),
    "smoothing_factor": (2, {}),
    "smoothing_curve": (5, {"smoothing_factor": 0.1}),
    "dynatemp_range": (1, {}),
    "dynatemp_exponent": (0.1, {"dynatemp_range": 1}),
    "guidance_scale": (8, {}),
    "negative_prompt": ("A story about nothing", {"guidance_scale": 8}),
    "contrastive_strength": (2, {}),
    "contrastive_alpha": (1, {"contrastive_strength": 0.1}),
    "mirostat": (2, {"mirostat_tau": 1.5}),
    "mirostat_tau": (0.5, {"mirostat": 2}),
    "mirostat_eta": (1.0, {"mirostat": 2, "mirostat_tau": 2.0}),
    "adaptive_target": (0.1, {}),
    "adaptive_decay": (0.0, {"adaptive_target": 0.4}),
    "no_repeat_ngram_size": (1, {"max_tokens": 48, "ignore_eos": True}),
    **{
        name: (value, {"dry_multiplier": 8, "dry_allowed_length": 1, "max_tokens": 48, "ignore_eos": True, **more})
        for name, value, more in (
            ("dry_multiplier", 0.5, {}),
            ("dry_base", 4, {"dry_multiplier": 0.3, "temperature": 0, "max_tokens": 96}),
            ("dry_allowed_length", 3, {}),
            ("dry_penalty_last_n", 2, {}),
            ("dry_sequence_breakers", [" ", "e"], {}),
        )
    },
}


@pytest.mark.parametrize("field", SAMPLING)
def test_a_field_of_the_sampler_means_what_it_means_elsewhere(field: str, way: Way) -> None:
    value, more = SAMPLING[field]
    asked = {"seed": 7, "max_tokens": 16, "n": 2, **more, field: value}
    answer = way.ask(logprobs=0, **asked)
    there = way.lab.complete(ONCE, **asked)
    assert [choice.text for choice in answer.choices] == there.texts
    assert [choice.finish_reason for choice in answer.choices] == [
        choice.finish_reason for choice in there.data.choices
    ]
    for got, expected in zip(answer.choices, there.data.choices, strict=True):
        assert got.logprobs.token_logprobs == pytest.approx(expected.tokens.logprob.tolist(), abs=1e-6)
    without = {name: given for name, given in asked.items() if name != field}
    other = way.ask(logprobs=0, **(without if field != "seed" else {**asked, "seed": 7}))
    assert [(one.text, one.logprobs.tokens) for one in other.choices] != [
        (one.text, one.logprobs.tokens) for one in answer.choices
    ]


@pytest.mark.parametrize("field", sorted(NO_EFFECT & set(CompletionsFields.model_fields)))
def test_a_field_without_effect_is_accepted(field: str, way: Way) -> None:
    value: Any = {"metadata": {"a": "b"}, "store": False}.get(field, "x")
    plain, with_it = (way.ask(seed=2, max_tokens=4, **given) for given in ({}, {field: value}))
    assert plain.choices == with_it.choices


# ---- what is continued


@row("prompt")
def _(way: Way) -> None:
    ids = way.lab.backend.tokenizer.encode(ONCE, special=True)
    text, same = (way.ask(prompt, seed=1) for prompt in (ONCE, ids))
    assert text.choices == same.choices and text.usage == same.usage and text.usage.prompt_tokens == len(ids)
    several = way.ask([ONCE, THERE, ids], seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.choices[0].text == text.choices[0].text  # a prompt's company does not change its answer
    assert several.choices[1].text == way.lab.complete(THERE, seed=1, max_tokens=16, n=2).texts[1]
    assert several.choices[2].text == way.lab.complete(ONCE, seed=1, max_tokens=16, n=3).texts[2]
    assert several.usage.prompt_tokens == sum(way.ask(p, max_tokens=1).usage.prompt_tokens for p in (ONCE, THERE, ids))
    assert way.ask([ids, ids[:2]], seed=1).choices[0].text == text.choices[0].text
    for bad in ("", [], [[]], [""], [1, "a"], ["a", 1], [[1], "", 2], [[1.5]], [[-1]], [10**6], [["a"]], 5, {"a": 1}):
        assert way.refusal(bad) == (400, "prompt")


@row("model")
def _(way: Way) -> None:
    assert way.ask(model="demo", max_tokens=1).model == "demo" and way.refusal(model="another") == (404, "model")


@row("suffix")
def _(way: Way) -> None:
    assert way.refusal(suffix="the end") == (400, "suffix")
    assert way.ask(suffix="", max_tokens=1, seed=1).choices == way.ask(suffix=None, max_tokens=1, seed=1).choices


@row("echo")
def _(way: Way) -> None:
    plain, echoed = (way.ask([ONCE, THERE], seed=1, n=2, logprobs=1, max_tokens=6, echo=e) for e in (False, True))
    for at, (alone, after) in enumerate(zip(plain.choices, echoed.choices, strict=True)):
        prompt = (ONCE, THERE)[at // 2]
        assert after.text == prompt + alone.text and after.finish_reason == alone.finish_reason
        count = len(alone.logprobs.tokens)
        assert after.logprobs.tokens[-count:] == alone.logprobs.tokens
        assert after.logprobs.text_offset[-count:] == [len(prompt) + offset for offset in alone.logprobs.text_offset]
        assert_offsets(after)
    assert echoed.usage == plain.usage
    silent = way.ask(ONCE, seed=1, echo=True, max_tokens=6)
    assert silent.choices[0].text.startswith(ONCE) and silent.choices[0].logprobs is None
    ids = way.lab.backend.tokenizer.encode("<|im_end|>\nHi ☕")
    assert way.ask(ids, echo=True, max_tokens=0).choices[0].text == "<|im_end|>\nHi ☕"


def assert_offsets(choice: Any) -> None:
    """Every token stands in the text where its offset says."""
    assert choice.logprobs.text_offset == sorted(choice.logprobs.text_offset)
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        if not token.startswith("bytes:") and token != "<|im_end|>":
            assert choice.text[offset : offset + len(token)] == token
        elif token.startswith("bytes:"):
            assert not choice.text[offset].isascii()


# ---- how much


@row("max_tokens")
def _(way: Way) -> None:
    for given in ({}, {"max_tokens": None}):
        assert way.ask(ignore_eos=True, **given).usage.completion_tokens == 16
    short, longer = (way.ask(seed=1, max_tokens=k, logprobs=0).choices[0] for k in (3, 5))
    assert longer.logprobs.tokens[:3] == short.logprobs.tokens and short.finish_reason == "length"
    nothing = way.ask([ONCE, THERE], max_tokens=0, n=2)
    assert [(choice.text, choice.finish_reason) for choice in nothing.choices] == [("", "length")] * 4
    assert nothing.usage.completion_tokens == 0 and way.refusal(max_tokens=-1) == (400, "max_tokens")
    assert way.refusal(max_tokens=0, min_tokens=1) == (400, "min_tokens")


@row("context_length_exceeded_behavior")
def _(way: Way) -> None:
    window = way.lab.describe()["context"]
    prompt = [9] * (window - 3)
    assert way.ask(prompt, ignore_eos=True, max_tokens=5).usage.completion_tokens == 3
    fields = {"max_tokens": 5, "context_length_exceeded_behavior": "error"}
    assert way.refusal(prompt, **fields) == (400, "max_tokens")
    assert way.refusal([9] * window) == way.refusal([9] * (window + 1), max_tokens=0) == (400, "prompt")
    assert way.ask([9] * window, max_tokens=0, echo=True, logprobs=0).usage.prompt_tokens == window


@row("n")
def _(way: Way) -> None:
    three, two = (way.ask(seed=4, n=n) for n in (3, 2))
    assert [choice.text for choice in three.choices[:2]] == [choice.text for choice in two.choices]
    assert len({choice.text for choice in three.choices}) == 3 and way.refusal(n=129) == (400, "n")
    assert way.refusal([[1]] * 20, n=128) == (400, "prompt")


@row("best_of")
def _(way: Way) -> None:
    every = way.ask([ONCE, THERE], n=6, seed=4, logprobs=0)
    found = way.ask([ONCE, THERE], n=2, best_of=6, seed=4, logprobs=0)
    for at in range(2):
        ranked = sorted(every.choices[6 * at : 6 * at + 6], key=lambda one: -np.mean(one.logprobs.token_logprobs))
        assert [one.text for one in found.choices[2 * at : 2 * at + 2]] == [one.text for one in ranked[:2]]
    assert found.usage == every.usage and [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert way.refusal(n=3, best_of=2) == way.refusal(best_of=3, stream=True) == (400, "best_of")


# ---- what is returned besides


@row("logprobs")
def _(way: Way) -> None:
    assert way.ask(max_tokens=2).choices[0].logprobs is None
    first = way.lab.backend.tokenizer.encode(ONCE, special=True)
    for count in (0, 1, 20):
        choice = way.ask(ONCE, logprobs=count, echo=True, max_tokens=3, seed=5).choices[0]
        found = choice.logprobs
        made = way.lab.complete(ONCE, max_tokens=3, seed=5).data.choices[0].tokens.ids.tolist()
        ids = np.array([*first, *made], np.int32)
        assert found.token_logprobs[0] is found.top_logprobs[0] is None and len(found.tokens) == len(ids)
        for t in range(1, len(ids)):
            logits = way.lab.backend.next_logits(ids[:t]).astype(np.float64)
            logprobs = logits - np.logaddexp.reduce(logits)
            assert found.token_logprobs[t] == pytest.approx(logprobs[ids[t]], abs=1e-4)
            best = np.sort(logprobs)[::-1][:count]
            own = [] if logprobs[ids[t]] in best else [logprobs[ids[t]]]
            assert sorted(found.top_logprobs[t].values()) == pytest.approx(sorted([*best, *own]), abs=1e-4)
            assert found.top_logprobs[t][found.tokens[t]] == found.token_logprobs[t]
    assert way.refusal(logprobs=21) == way.refusal(extra_body={}, logprobs=True) == (400, "logprobs")
    assert way.refusal(top_logprobs=2) == (400, "top_logprobs")


@row("logprob_token_ids")
def _(way: Way) -> None:
    """At every position, those of an echoed prompt too."""
    tokenizer = way.lab.backend.tokenizer
    prompt = tokenizer.encode(ONCE, special=True)
    for max_tokens in (0, 3):
        asked = {"echo": True, "logprobs": 1, "logprob_token_ids": [300, 5], "max_tokens": max_tokens, "seed": 5}
        choice = way.ask(ONCE, return_token_ids=True, **asked).choices[0]
        ids, tops = np.array([*prompt, *choice.token_ids], np.int32), choice.logprobs.top_logprobs
        assert tops[0] is None and len(tops) == len(ids) > max_tokens
        for t in range(1, len(ids)):
            logits = way.lab.backend.next_logits(ids[:t]).astype(np.float64)
            logprobs = logits - np.logaddexp.reduce(logits)
            assert set(tops[t]) == {tokenizer.name(int(i)) for i in (logits.argmax(), ids[t], 300, 5)}
            for token in (300, 5):
                assert tops[t][tokenizer.name(token)] == pytest.approx(logprobs[token], abs=1e-4)
    plain = way.ask(ONCE, logprobs=1, logprob_token_ids=[5], prompt_logprobs=1, max_tokens=1).choices[0]
    assert plain.prompt_logprobs == way.ask(ONCE, prompt_logprobs=1, max_tokens=1).choices[0].prompt_logprobs
    assert way.refusal(logprob_token_ids=[5]) == (400, "logprob_token_ids")
    for stream in (False, True):
        wrong = {"logprobs": 1, "logprob_token_ids": [10**6], "echo": True, "stream": stream}
        assert way.refusal(**wrong) == (400, "logprob_token_ids")
        assert way.refusal(**wrong, max_tokens=0) == (400, "logprob_token_ids")


@row("prompt_logprobs")
def _(way: Way) -> None:
    answer = way.ask([ONCE, [9]], prompt_logprobs=1, n=2, max_tokens=1)
    scored = way.lab.score(prompt=ONCE).logprobs_frame()
    for choice in answer.choices[:2]:
        found = choice.prompt_logprobs
        assert found[0] is None and len(found) == 1 + len(scored)
        for entry, token, logprob, rank in zip(found[1:], scored.token_id, scored.logprob, scored["rank"], strict=True):
            assert entry[str(token)]["logprob"] == pytest.approx(logprob, abs=1e-5)
            assert entry[str(token)]["rank"] == rank and len(entry) == 1 + (rank > 1)
    assert [choice.prompt_logprobs for choice in answer.choices[2:]] == [[None]] * 2
    assert (
        way.ask(ONCE, prompt_logprobs=1.0, max_tokens=1).choices[0].prompt_logprobs == answer.choices[0].prompt_logprobs
    )
    assert not hasattr(way.ask(ONCE, logprobs=1, echo=True, max_tokens=1).choices[0], "prompt_logprobs")
    chunks = way.chunks(ONCE, prompt_logprobs=1, n=2, max_tokens=1)
    told = [chunk.choices[0] for chunk in chunks if hasattr(chunk.choices[0], "prompt_logprobs")]
    assert [one.index for one in told] == [0, 1] and told[0].prompt_logprobs == answer.choices[0].prompt_logprobs


@row("separate_reasoning")
def _(way: Way) -> None:
    prompt = "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    asked = {"temperature": 0, "max_tokens": 200, "logprobs": 0}
    joined, apart = (way.ask(prompt, separate_reasoning=flag, **asked).choices[0] for flag in (False, True))
    there = way.lab.complete(prompt, temperature=0, max_tokens=200, separate_reasoning=True).data.choices[0]
    assert apart.text == there.text and apart.reasoning_content == there.reasoning and there.reasoning
    assert joined.text.endswith(apart.text) and joined.text != apart.text and not hasattr(joined, "reasoning_content")
    assert apart.logprobs.tokens == joined.logprobs.tokens
    chunks = [chunk.choices[0] for chunk in way.chunks(prompt, separate_reasoning=True, **asked)]
    assert "".join(getattr(one, "reasoning_content", "") for one in chunks) == apart.reasoning_content


@row("return_token_ids")
def _(way: Way) -> None:
    asked = {"seed": 6, "n": 2, "max_tokens": 20, "return_token_ids": True}
    answer, chunks = way.ask([ONCE, [9, 10]], **asked), way.chunks([ONCE, [9, 10]], **asked)
    there = way.lab.complete(ONCE, seed=6, n=2, max_tokens=20).data
    for choice, expected in zip(answer.choices[:2], there.choices, strict=True):
        assert choice.token_ids == expected.tokens.ids.tolist()
        assert choice.prompt_token_ids == there.prompt_ids.tolist()
    for choice in answer.choices:
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert own[0].prompt_token_ids == choice.prompt_token_ids
        assert [token for one in own for token in getattr(one, "token_ids", ())] == choice.token_ids
    assert not hasattr(way.ask(max_tokens=1).choices[0], "token_ids")


@row("stream")
def _(way: Way) -> None:
    asked = {"seed": 6, "n": 2, "logprobs": 2, "echo": True, "max_tokens": 40, "ignore_eos": True}
    prompts = [ONCE, THERE, [9, 10]]
    whole, chunks = way.ask(prompts, **asked), way.chunks(prompts, **asked)
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(one.text for one in own) == choice.text and len(own) > 2
        assert [one.finish_reason for one in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [entry for one in own for entry in getattr(one.logprobs, name)]
            assert joined == getattr(choice.logprobs, name)
    assert {chunk.object for chunk in chunks} == {"text_completion"} and len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage == whole.usage and chunks[-1].seed == whole.seed == 6
    scored = way.chunks(prompts, echo=True, max_tokens=0, logprobs=1)
    assert [chunk.choices[0].text for chunk in scored] == [
        ONCE,
        THERE,
        way.lab.backend.tokenizer.decode([9, 10]),
        *[""] * 3,
    ]


@row("stream_options")
def _(way: Way) -> None:
    for options, count in ((None, 1), ({"include_usage": False}, 0), ({"include_usage": True}, 1)):
        chunks = way.chunks(stream_options=options, max_tokens=3)
        assert [chunk.usage is not None for chunk in chunks].count(True) == count
        assert (chunks[-1].choices == []) is bool(options and options["include_usage"])
    running = way.chunks(stream_options={"include_usage": True, "continuous_usage_stats": True}, max_tokens=3)
    assert all(chunk.usage.prompt_tokens == 4 for chunk in running)
    assert running[-2].usage == running[-1].usage and running[0].usage.completion_tokens <= 3
    assert way.refusal(stream_options={"include_usage": True}) == (400, "stream_options")


def test_fields_of_other_paths_are_refused_by_name(way: Way) -> None:
    for name, value in {"messages": [], "tools": [], "temprature": 1, "max_completion_tokens": 3, "": 1}.items():
        assert way.refusal(**{name: value} if name else {"extra": 1}) == (400, name or "extra")
    assert way.refusal(temprature=None) == (400, "temprature")


def test_log_likelihoods_as_an_evaluation_harness_reads_them(way: Way) -> None:
    """lm-eval sends a batch of token ids, asks for one token, and reads what lies between the context and the last."""
    encode = way.lab.backend.tokenizer.encode
    pairs = [(encode(a), encode(b)) for a, b in PAIRS]
    answer = way.ask([a + b for a, b in pairs], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234)
    greedy = []
    for (context, continuation), choice in zip(pairs, sorted(answer.choices, key=lambda one: one.index), strict=True):
        read = slice(len(context), -1)
        own, top = choice.logprobs.token_logprobs[read], choice.logprobs.top_logprobs[read]
        scored = way.lab.score(context and way.lab.request(prompt=context), [continuation]).logprobs_frame()
        assert len(own) == len(continuation) and sum(own) == pytest.approx(scored.logprob.sum(), abs=1e-3)
        greedy.append(all(one == max(best.values()) for one, best in zip(own, top, strict=True)))
        assert greedy[-1] == bool((scored["rank"] == 1).all())
    assert set(greedy) == {True, False}
    ended = [choice.logprobs.tokens[-1] for choice in answer.choices]
    assert "<|im_end|>" in ended and json.dumps(ended)  # an end token is counted like any other


PAIRS = [
    ("Once upon a", " time"),
    ("Once upon a", " xylophone"),
    ("<|im_start|>user\nName an animal.<|im_end|>\n<|im_start|>assistant\n", "A fox."),
    ("The sky is", " blue and the grass is green."),
]
