"""P(True): what the model is asked, and the probability that it says true, against its next-token distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmlab.certainty.p_true import p_true, prompt_of
from llmlab.errors import RequestError

PROMPT = """Question: What is 2 + 2?
Here are some brainstormed ideas:
4
5
Possible answer: 4
Is the possible answer:
 (A) True
 (B) False
The possible answer is:"""


def test_the_words_are_those_of_the_paper() -> None:
    assert prompt_of("What is 2 + 2?", "4", ["4", "5"]) == PROMPT
    assert "brainstormed" not in prompt_of("What is 2 + 2?", "4", [])


def test_the_arithmetic() -> None:
    logprobs = np.log([[0.3, 0.1], [0.001, 0.004]])
    assert p_true(logprobs) == pytest.approx([0.75, 0.2])
    assert p_true(np.array([[-2000.0, -2000.0]])) == pytest.approx([0.5])


def by_steps(lab, text: str, **prompt) -> float:
    """The logprob of a text, one next-token distribution after the other."""
    ids = lab.tokenize(lab.request(**prompt)).ids.tolist()
    total = 0.0
    for token in lab.tokenize(text).ids.tolist():
        total += math.log(float(lab.next_token(prompt=ids).probs[token]))
        ids.append(token)
    return total


@pytest.mark.parametrize("raw", [False, True])
def test_the_model_is_asked(demo, raw: bool) -> None:
    found = demo.p_true(["Name an animal.", "What is 2 + 2?"], ["Cat", "4"], ideas=[["Dog"], ["4", "5"]], raw=raw)
    frame = found.frame()
    assert found.prompts[1] == PROMPT and frame["answer"].tolist() == ["Cat", "4"]
    for at, prompt in enumerate(found.prompts):
        asked = {"prompt": prompt} if raw else {"messages": prompt}
        true, false = (by_steps(demo, f" {option}" if raw else option, **asked) for option in ("True", "False"))
        assert frame["logprob_true"][at] == pytest.approx(true, abs=1e-3)
        assert frame["logprob_false"][at] == pytest.approx(false, abs=1e-3)
        assert frame["p_true"][at] == pytest.approx(1 / (1 + math.exp(false - true)), abs=1e-3)
        assert frame["listed"][at] == pytest.approx(math.exp(true) + math.exp(false), rel=1e-2)
    one = demo.p_true("What is 2 + 2?", "4", ideas=["4", "5"], raw=raw)
    np.testing.assert_allclose(one.logprobs, found.logprobs[1:], atol=1e-4)
    assert len(one) == 1 and "PTrue: 1 answer" in repr(one)


def test_other_words_for_true_and_false_and_a_column_of_answers(demo) -> None:
    answers = demo.chat(["Name an animal.", "Name a fruit."], n=3, seed=1, max_tokens=4)
    column = demo.last_sweep.certainty().frame()["answer"]
    found = demo.p_true(["Name an animal.", "Name a fruit."], column, options=("Yes", "No"), system="Be brief.")
    assert found.answers == tuple(column) and len(answers) == 2
    alone = demo.score(found.prompts[0], ["Yes", "No"], system="Be brief.")
    sums = [choice.tokens.logprob.sum() for choice in alone.choices]
    assert found.logprobs[0] == pytest.approx(sums, abs=1e-3)
    assert len(demo.p_true([], []).frame()) == 0


def test_what_is_wrong_is_named(demo) -> None:
    with pytest.raises(RequestError, match="answers has 1 texts and there are 2 questions; give one for each"):
        demo.p_true(["a", "b"], "c")
    with pytest.raises(RequestError, match="temperature"):
        demo.p_true("a", "b", temperature=-1)
    with pytest.raises(RequestError, match="messages"):
        demo.p_true("a", "b", messages="c")
