"""Stop sequences end to end: where an answer ends and what is returned, compared with the same answer without them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from llmlab.backends.local.backend import LocalBackend
from llmlab.protocol.completion import Choice
from llmlab.protocol.request import ChatRequest
from llmlab.testing import TEMPLATE, tiny_checkpoint

#: ChatML whose assistant turns begin in the middle of the reasoning.
THINKING = TEMPLATE.split("{% if add_generation_prompt %}")[0] + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CLOSE = 260


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory):
    """Tokens are bytes, so that every stop of more than one byte lies across tokens."""
    backend = LocalBackend.load(tiny_checkpoint(tmp_path_factory.mktemp("stops") / "tiny"), slots=8, max_context=256)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("thinker") / "tiny", template=THINKING)
    backend = LocalBackend.load(folder, slots=8, max_context=256)
    yield backend
    backend.close()


def ask(backend: LocalBackend, **fields: Any) -> tuple[Choice, ...]:
    fields = {"ignore_eos": True, "max_tokens": 40, "n": 8, "seed": 1, "temperature": 1.5, **fields}
    return backend.complete(ChatRequest.build("Hello", **fields)).choices


def letters(text: str, weight: float = 100) -> dict[int, float]:
    """A bias under which nothing but the bytes of these characters is drawn."""
    return dict.fromkeys(text.encode(), weight)


def cut(text: str, stops: Sequence[str], *, include: bool = True) -> tuple[str, str | None]:
    """The text up to the stop whose end comes first (of two that end at once: up to the longer one), and which."""
    ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, minus, stop = min(ends)
    return text[: end if include else end + minus], stop


def test_any_stops_in_any_text(backend: LocalBackend) -> None:
    rng = random.Random(5)
    matched = 0
    for seed, alphabet in enumerate(["ab", "abc é", "aé中", "ab🦊", "中国é", "x\n "]):
        bias = letters(alphabet)
        whole = ask(backend, seed=seed, logit_bias=bias)
        found = [choice.text[at : at + rng.randint(1, 3)] for choice in whole for at in (rng.randrange(20),)]
        stops = [stop for stop in found if stop and "\ufffd" not in stop][: rng.randint(1, 4)] or ["a"]
        for include in (True, False):
            stopped = ask(backend, seed=seed, logit_bias=bias, stop=stops, include_stop=include)
            for before, after in zip(whole, stopped, strict=True):
                expected, stop = cut(before.text, stops, include=include)
                matched += stop is not None
                assert after.text == expected, (stops, before.text)
                assert after.finish_reason == ("length" if stop is None else "stop")
                # The last token is the one that completed the stop, and it is whole.
                made = after.tokens.ids.tolist()
                assert made == before.tokens.ids.tolist()[: len(made)]
                assert bytes(made).decode("utf-8", "replace").startswith(cut(before.text, stops)[0])
    assert matched > 50


def test_a_stop_across_tokens(backend: LocalBackend) -> None:
    whole = ask(backend, n=1, logit_bias=letters("abcdefgh"))[0]
    for size in (2, 5, 9):
        stop = whole.text[7 : 7 + size]
        choice = ask(backend, n=1, logit_bias=letters("abcdefgh"), stop=stop)[0]
        assert choice.text == cut(whole.text, [stop])[0] and choice.finish_reason == "stop"
        assert len(choice.tokens) == len(choice.text)


def test_a_stop_beside_a_character_of_several_tokens(backend: LocalBackend) -> None:
    # One alphabet of bytes in which whole characters come about by chance, some of them torn.
    bias = letters("aé", 100)
    for choice in ask(backend, logit_bias=bias, max_tokens=80):
        for stop in ("éa", "aé", "é"):
            if stop in choice.text:
                got = ask(backend, logit_bias=bias, max_tokens=80, stop=stop)[choice.index]
                assert got.text == cut(choice.text, [stop])[0] and got.text.endswith(stop)
                assert bytes(got.tokens.ids.tolist()).endswith(stop.encode())
    assert any("éa" in choice.text for choice in ask(backend, logit_bias=bias, max_tokens=80))


@pytest.mark.parametrize(
    ("stops", "included", "excluded"),
    [
        (["ab", "b"], "ab", ""),  # both end at once: the longer one is the one that is left out
        (["b", "ab"], "ab", ""),
        (["abab", "aba"], "aba", ""),  # one is the beginning of the other: it ends first
        (["a", "ab"], "a", ""),
        (["bb", "bab"], "abab", "a"),
        (["b", "b"], "ab", "a"),
    ],
)
def test_several_stops(backend: LocalBackend, stops: list[str], included: str, excluded: str) -> None:
    fields: dict[str, Any] = {"logit_bias": letters("ab"), "max_tokens": 6, "temperature": 2, "frequency_penalty": 2}
    answers = ((seed, choice) for seed in range(20) for choice in ask(backend, seed=seed, **fields))
    seed, whole = next((seed, choice) for seed, choice in answers if choice.text.startswith("abab"))
    for include, text in ((True, included), (False, excluded)):
        choice = ask(backend, seed=seed, stop=stops, include_stop=include, **fields)[whole.index]
        assert (choice.text, choice.finish_reason) == (text, "stop")


def test_a_stop_at_the_last_token_allowed(backend: LocalBackend) -> None:
    text = ask(backend, n=1, logit_bias=letters("abcdefghijklmnop"))[0].text
    stop = next(text[at : at + 3] for at in range(5, 30) if text.index(text[at : at + 3]) == at)
    end = text.index(stop) + 3
    for limit, reason in ((end - 1, "length"), (end, "stop"), (end + 1, "stop")):
        choice = ask(backend, n=1, logit_bias=letters("abcdefghijklmnop"), stop=stop, max_tokens=limit)[0]
        assert (choice.finish_reason, choice.text) == (reason, text[: min(limit, end)])
        held = ask(
            backend, n=1, logit_bias=letters("abcdefghijklmnop"), stop=stop, max_tokens=limit, include_stop=False
        )[0]
        assert held.text == (text[: end - 3] if reason == "stop" else text[:limit])


@pytest.mark.parametrize("separate", [True, False])
def test_stops_in_the_reasoning_are_none(thinker: LocalBackend, separate: bool) -> None:
    bias = {97: 100, 98: 100, CLOSE: 99}
    fields = {"logit_bias": bias, "separate_reasoning": separate, "max_tokens": 60}
    met = 0
    for before, after in zip(ask(thinker, **fields), ask(thinker, stop="ab", **fields), strict=True):
        assert before.reasoning is not None and after.reasoning == before.reasoning
        thought = "" if separate else before.text[: before.text.index("</think>") + len("</think>")]
        met += "ab" in before.reasoning
        assert after.text == thought + cut(before.text.removeprefix(thought), ["ab"])[0]
    assert met > 2


def test_what_a_stop_leaves_running(backend: LocalBackend) -> None:
    bias = letters("abcdefgh")
    whole = ask(backend, logit_bias=bias)
    stop = whole[3].text[10:14]
    stopped = ask(backend, logit_bias=bias, stop=stop)
    assert stopped[3].finish_reason == "stop" and len(stopped[3].tokens) == 14
    for before, after in itertools.islice(zip(whole, stopped, strict=True), 3):
        assert after.text == cut(before.text, [stop])[0]
