"""The corpus generator: seeded, truthful, and never the same in training and evaluation."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from data.build import arithmetic, records, tools
from data.build.conversation import held_out
from data.build.corpus import EVAL_SEED, TRAIN_SEED, Stream, as_row, questions
from data.build.distributions import DISTRIBUTIONS, Decks, truth, wordings

DOMAINS = ("distributions", "facts", "arithmetic", "arithmetic (no thinking)", "tools", "records", "words")


def rows(seed: int, count: int) -> list[str]:
    return [json.dumps(as_row(c), sort_keys=True) for c in itertools.islice(Stream(seed), count)]


def test_a_seed_fixes_the_stream():
    assert rows(5, 300) == rows(5, 300)
    assert rows(5, 300) != rows(6, 300)


def test_the_probabilities_of_a_distribution_sum_to_one():
    for known in DISTRIBUTIONS:
        assert sum(known.probabilities.values()) == pytest.approx(1, abs=1e-12), known.name
        assert min(known.probabilities.values()) > 0, known.name


def test_a_wording_belongs_to_one_distribution():
    owners: dict[str, str] = {}
    for known in DISTRIBUTIONS:
        for text in wordings(known):
            assert owners.setdefault(text, known.name) == known.name
    assert len(DISTRIBUTIONS) >= 25 and len(owners) > 5000
    assert all(sum(held_out(text) for text in wordings(known)) >= 10 for known in DISTRIBUTIONS)


def test_answers_follow_their_distribution():
    import random

    decks = Decks(random.Random(3))
    for known in DISTRIBUTIONS:
        drawn = Counter(decks.draw(known) for _ in range(6000))
        assert set(drawn) <= set(known.probabilities)
        for answer, probability in known.probabilities.items():
            # Systematic sampling: a deck is off by less than one card, so that 100 decks are closer than chance is.
            assert drawn[answer] / 6000 == pytest.approx(probability, abs=0.006), (known.name, answer)


def test_training_and_evaluation_never_share_a_question():
    training = Stream(TRAIN_SEED)
    asked = {training.of(domain).messages[0]["content"] for domain in ("distributions", "facts") for _ in range(4000)}
    for domain in ("distributions", "facts"):
        assert not asked & {c.messages[0]["content"] for c in questions(domain, EVAL_SEED, 300)}
    sums = {arithmetic.conversation(training.rng).notes["problem"] for _ in range(6000)}
    unseen = {c.notes["problem"] for c in questions("arithmetic", EVAL_SEED, 300)}
    assert all(max(a, b) < 10 for a, _, b in sums & unseen)
    assert any(max(a, b) >= 100 for a, _, b in unseen)


def test_shards_of_training_stay_below_the_seeds_of_evaluation():
    assert TRAIN_SEED + 100_003 * 50 + 10_000 < EVAL_SEED


def test_every_trace_is_right():
    stream = Stream(11)
    for _ in range(1500):
        conversation = arithmetic.conversation(stream.rng, thinking=True)
        a, operation, b = conversation.notes["problem"]
        answer = eval(f"{a} {operation.replace('x', '*')} {b}")
        assert conversation.expected["content"] == str(answer)
        trace = conversation.expected["reasoning_content"].split("\n")
        assert trace[-1].split(" = ")[-1] == str(answer)
        carry = 0
        for line in trace:
            if ": " in line:
                left, right = line.split(": ")[1].split(", ")
                x, sign, y, _, carried, _, total = left.split()
                assert eval(f"{x} {sign} {y} {sign} {carried}") == int(total)
                written, carry_word = int(right.split()[1]), int(right.split()[3])
                assert written == int(total) % 10 and int(carried) in (carry, 0)
                carry = carry_word


def test_every_record_is_json_with_the_fields_that_were_asked_for():
    stream = Stream(12)
    for _ in range(500):
        conversation = records.conversation(stream.rng, foreign=False)
        content = json.loads(conversation.expected["content"])
        ask = conversation.messages[0]["content"]
        assert json.dumps(content, ensure_ascii=False) == conversation.expected["content"]
        keys = list(content) if isinstance(content, dict) else []
        assert [ask.find(key) for key in keys] == sorted(ask.find(key) for key in keys) and "JSON" in ask
        for value in content.values() if isinstance(content, dict) else content:
            assert isinstance(value, bool) or str(value) in ask


def test_every_tool_call_fits_its_definition_and_copies_the_request():
    stream, called = Stream(13), 0
    for _ in range(400):
        conversation = tools.conversation(stream.rng, chat=stream.plain, lessons=tools.BROAD)
        definitions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in conversation.tools or []}
        request = ""
        for message in conversation.messages:
            if message["role"] == "user":
                request = message["content"]
            for call in message.get("tool_calls", []):
                called += 1
                schema, arguments = definitions[call["function"]["name"]], call["function"]["arguments"]
                assert list(arguments) == schema["required"] == list(schema["properties"])
                for name, value in arguments.items():
                    kind = schema["properties"][name]["type"]
                    assert isinstance(value, {"integer": int, "string": str}[kind])
                    assert str(value) in request
    assert called > 300


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_evaluation_is_fixed_by_its_seed(domain: str):
    assert [as_row(c) for c in questions(domain, 4, 20)] == [as_row(c) for c in questions(domain, 4, 20)]


def test_the_truth_is_of_held_out_wordings():
    found = truth(EVAL_SEED, per_distribution=3)
    assert len(found) == 3 * len(DISTRIBUTIONS)
    assert all(held_out(row["messages"][0]["content"]) for row in found)
