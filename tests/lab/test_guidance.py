"""A negative prompt through the lab: every view of an answer sees the distributions that its tokens were drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.errors import RequestError
from tests.engine.test_recompilation import compiled

ASK, AGAINST = "Tell me a story about a cat.", "Tell me a story."
ASKED = {"guidance_scale": 2.5, "negative_prompt": AGAINST}


@pytest.fixture(scope="module")
def answer(demo):
    return demo.chat(ASK, **ASKED, n=2, seed=7, max_tokens=16)


def normed(x):
    return x - np.logaddexp.reduce(x)


def test_the_answer_is_that_of_the_two_distributions(demo, answer):
    """By hand, from the raw logits after both prompts; `logprob` stays the model's own."""
    prompts = [demo.backend.render(demo.request(text)) for text in (ASK, AGAINST)]
    for choice in answer.choices:
        own, other = (
            np.concatenate(list(demo.backend.logits(p, choice.tokens.ids))).astype(np.float64) for p in prompts
        )
        for at, token in enumerate(choice.tokens.ids):
            l, n = normed(own[at]), normed(other[at])  # noqa: E741
            final = normed(n + 2.5 * (l - n))
            assert choice.tokens.logprob[at] == pytest.approx(l[token], abs=1e-3)
            assert choice.tokens.sampling_logprob[at] == pytest.approx(final[token], abs=1e-3)
    assert answer.texts != demo.chat(ASK, n=2, seed=7, max_tokens=16).texts


def test_every_view_of_a_step_computes_it(demo, answer):
    tokens = answer.choices[1].tokens
    scored = demo.score(answer).choices[1].tokens
    np.testing.assert_allclose(scored.sampling_logprob, tokens.sampling_logprob, atol=1e-4)
    steps = answer.next_tokens(choice=1)
    for at in (0, 5, 15):
        token, step = int(tokens.ids[at]), answer.next_token(at, choice=1)
        assert step.sample([answer.seed]).tolist() == [token]
        for found in (step, steps[at]):
            assert found.sampling_logprobs()[token] == pytest.approx(tokens.sampling_logprob[at], abs=1e-4)
            assert found.logprobs[token] == pytest.approx(tokens.logprob[at], abs=1e-4)
        frame = step.stages_frame(tokens=token).set_index("stage")
        assert frame.active["guidance"] and frame.logprob["guidance"] == pytest.approx(
            tokens.sampling_logprob[at], abs=1e-4
        )
        drawn = step.flip_points_frame(token).query("parameter == 'guidance_scale' and event == 'drawn'")
        assert ((drawn.low <= 2.5) & (drawn.high >= 2.5)).any()
        assert set(step.penalties().shifts) == {"guidance"}
        step.plot_stages(token)
        step.plot_penalties()
    grid = answer.next_token(5).sweep(guidance_scale=[1.0, 2.5])
    token = int(answer.choices[0].tokens.ids[5])
    assert grid.logprobs(token)[1, 0] == pytest.approx(answer.choices[0].tokens.sampling_logprob[5], abs=1e-4)
    assert grid.logprobs(token)[0, 0] == pytest.approx(answer.choices[0].tokens.logprob[5], abs=1e-4)
    with pytest.raises(RequestError, match="negative_prompt makes another prompt"):
        answer.next_token(5).frame(negative_prompt="x")


def test_answers_made_of_it(demo, answer):
    """Streamed, run again, branched, forked into a tree, under other orders: the same distributions."""
    with demo.stream(ASK, **ASKED, n=2, seed=7, max_tokens=16) as stream:
        for _ in stream:
            pass
        assert stream.result().texts == answer.texts
    assert answer.rerun().texts == answer.texts
    branch = answer.branch(position=4, token=int(answer.choices[0].tokens.ids[4]))
    assert branch.choices[0].tokens.ids.tolist() == answer.choices[0].tokens.ids.tolist()
    plain = answer.rerun(guidance_scale=1.0)
    assert plain.texts == demo.chat(ASK, n=2, seed=7, max_tokens=16).texts
    assert "guidance_scale alone" in str(plain.diff(answer))
    summary = demo.compare_orders(answer).summary_frame()
    assert (summary.max_total_variation < 1e-5).all() and (summary.other_draws == 0).all()


def test_a_sweep_compiles_nothing_the_second_time(demo):
    asked = {"negative_prompt": AGAINST, "n": 2, "seed": 3, "max_tokens": 8}
    first = demo.sweep(ASK, guidance_scale=[1.0, 1.5, 3.0], **asked)
    before = len(compiled())
    second = demo.sweep(ASK, guidance_scale=[1.0, 1.7, 9.0], **asked)
    assert len(compiled()) == before
    cell = {scale: list(each.text) for scale, each in first.frame().groupby("guidance_scale")}
    assert cell[1.0] == list(second.frame().query("guidance_scale == 1.0").text)
    assert cell[1.0] == demo.chat(ASK, n=2, seed=3, max_tokens=8).texts, "neutral"
    texts = demo.sweep(ASK, negative_prompt=[AGAINST, "Say nothing."], guidance_scale=2.0, n=1, seed=3, max_tokens=8)
    assert texts.frame().negative_prompt.tolist() == [AGAINST, "Say nothing."]


def test_with_a_grammar_and_contrast(demo):
    """What is implausible is removed among what the grammar allows, never all of it."""
    asked = {"contrastive_strength": 1.0, "contrastive_alpha": 0.3, "negative_prompt": AGAINST}
    found = demo.chat(ASK, **asked, response_format={"type": "json_object"}, seed=2, max_tokens=40)
    scored = demo.score(found).choices[0].tokens
    np.testing.assert_allclose(scored.sampling_logprob, found.choices[0].tokens.sampling_logprob, atol=1e-3)
    assert (found.logprobs_frame().kept >= 1).all() and found.text.startswith(("{", "["))
    kept = found.kept_frame()
    assert (kept.groupby("position").size().to_numpy() == found.logprobs_frame().kept.to_numpy()).all()


def test_raw_prompts_are_compared_as_texts_and_ids(demo):
    text = demo.complete("Once upon a time", guidance_scale=3.0, negative_prompt="Once", seed=4, max_tokens=8)
    ids = demo.tokenize("Once").ids.tolist()
    assert (
        demo.complete("Once upon a time", guidance_scale=3.0, negative_prompt=ids, seed=4, max_tokens=8).text
        == text.text
    )
    last = demo.tokenize("Once upon a time").ids[-1:].tolist()
    default = demo.complete("Once upon a time", guidance_scale=3.0, seed=4, max_tokens=8)
    again = demo.complete("Once upon a time", guidance_scale=3.0, negative_prompt=last, seed=4, max_tokens=8)
    assert default.text == again.text


def test_what_cannot_do_it_says_so(demo):
    for search in (demo.beam_search, demo.sample_without_replacement, demo.arithmetic_sample):
        with pytest.raises(RequestError, match="guidance compares with a negative prompt, which a search") as error:
            search(ASK, **ASKED, max_tokens=3)
        assert error.value.param == "guidance_scale"
    window = demo.describe()["context"]
    with pytest.raises(RequestError, match="negative_prompt has .* leaves no room") as error:
        demo.chat(ASK, guidance_scale=2.0, negative_prompt="red " * window)
    assert error.value.param == "negative_prompt"
    with pytest.raises(RequestError, match="negative_prompt: .*not in the vocabulary"):
        demo.chat(ASK, guidance_scale=2.0, negative_prompt=[10**7])
