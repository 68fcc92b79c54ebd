"""Ways on from any token, and the tree of those that are likely."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmlab.counterfactuals.tree import TREE_COLUMNS
from llmlab.errors import RequestError
from llmlab.text.token_names import TokenNames
from tests.columns import assert_declared


@pytest.fixture(scope="module")
def story(demo):
    return demo.chat("Tell me a story.", n=3, seed=3, max_tokens=24, temperature=0.9, top_p=0.95)


def ids(result, choice=0):
    return result.choices[choice].tokens.ids.tolist()


def test_with_its_own_token_it_is_the_result_again(story):
    for choice, position in ((0, 0), (1, 5), (2, 23), (2, -1)):
        own = ids(story, choice)
        for token in (own[position], None):
            again = story.branch(position, token, choice=choice)
            assert len(again) == 1 and again.choices[0].index == choice
            assert ids(again) == own and again.text == story.texts[choice]
            place = position % len(own)
            assert again.choices[0].given == place + (token is not None)
            assert set(again.diff().first_differences.values()) == {None}
            figures = again.choices[0].tokens.logprob, story.choices[choice].tokens.logprob
            np.testing.assert_allclose(*figures, atol=1e-4)


def test_a_tree_reads_the_prompt_once(demo):
    """What was read for the answer is there for each of the tree's beginnings, up to the last border of a piece."""
    one = demo.chat("Tell me a story about a dog, a cat and a fox. " * 4, seed=3, max_tokens=8)
    engine, count = demo.backend.engine, len(demo.backend.render(one.request))
    before = engine.read_tokens
    one.tree(3, 3)
    beginnings = 1 + 3 + 9
    assert engine.read_tokens - before <= beginnings * (count % 32 + 3) < beginnings * count / 2
    before = engine.read_tokens
    one.branch(4, " fox")
    one.rerun(temperature=0.0)
    assert engine.read_tokens - before <= 2 * (32 + 4)


def test_another_token_and_what_follows_it(demo, story):
    other = story.branch(8, " fox")
    (fox,) = demo.backend.encode(" fox")
    assert ids(other)[:9] == [*ids(story)[:8], fox] and len(ids(other)) == 24
    assert other.parent is story and other.request.seed == story.seed
    found = other.diff().frame().iloc[0]
    assert found["position"] == 8 and "given" in found["cause"]
    # The positions behind it meet their own noise: forced to go the old way there, they do.
    assert ids(other.rerun()) == ids(other)
    assert ids(other.rerun(temperature=0.0))[:9] == ids(other)[:9]
    assert ids(story.branch(8, fox)) == ids(story.branch(8, b" fox")) == ids(other)


def test_several_tokens_and_several_ways_on(demo, story):
    forced = demo.backend.encode(" small dog called Rex.")
    one = story.branch(7, " small dog called Rex.", max_tokens=30)
    assert one.choices[0].given == 7 + len(forced) and " small dog called Rex." in one.text
    many = story.branch(7, " small dog called Rex.", choice=1, n=4, max_tokens=30)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert {tuple(ids(many, k)[: 7 + len(forced)]) for k in range(4)} == {(*ids(story, 1)[:7], *forced)}
    assert len({tuple(ids(many, k)) for k in range(4)}) > 1, "each has noise of its own"
    assert [ids(many.rerun(), k) for k in range(4)] == [ids(many, k) for k in range(4)]
    with pytest.raises(RequestError, match="n cannot be changed"):
        many.rerun(n=2)


def test_a_branch_of_a_branch_and_its_ledger(demo, story):
    twice = story.branch(8, " fox", choice=2).branch(12, ".")
    assert twice.choices[0].index == 2 and twice.parent.parent is story
    assert ids(twice)[:8] == ids(story, 2)[:8]
    step = twice.next_token(14)
    assert step.drawn == ids(twice)[14] and step.choice == 2


def test_past_the_end(demo, story):
    longer = story.branch(24, max_tokens=30)
    assert ids(longer)[:24] == ids(story) and len(ids(longer)) == 30
    assert ids(longer) == ids(demo.chat(story.request.replace(max_tokens=30)))
    same = story.branch(24)
    assert ids(same) == ids(story) and same.finish_reasons == ["length"]


def test_reasoning_tools_and_an_end_token(demo):
    thought = demo.chat("Name a tree.", enable_thinking=True, separate_reasoning=True, seed=2, max_tokens=60)
    assert thought.reasoning
    closed = thought.branch(3, "\n</think>\n\n", max_tokens=70)
    segments = closed.choices[0].tokens.segment
    assert segments[0] == "reasoning" and "content" in segments
    assert "</think>" not in closed.text and closed.reasoning
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    free = demo.chat("What is the weather?", tools=[weather], seed=1, max_tokens=40)
    called = free.branch(0, "<tool_call>\n", tool_choice="required")
    assert called.finish_reasons == ["tool_calls"] and called.tool_calls[0].name == "weather"
    end = demo.backend.end_ids[0]
    ended = free.branch(2, end)
    assert ended.finish_reasons == ["stop"] and len(ids(ended)) == 3
    with pytest.raises(RequestError, match="can be replaced, but nothing follows") as told:
        ended.branch(3, "a")
    assert told.value.param == "position"
    with pytest.raises(RequestError, match="allows") as told:
        free.branch(0, "Once", tool_choice="required")
    assert told.value.param == "token"


def test_a_stop_that_the_token_completes(story):
    kept = story.branch(4, " stop. Go", stop=".")
    assert kept.text.startswith("Once upon a time stop. Go") and kept.text != "Once upon a time stop. Go"
    ended = story.branch(4, ".", stop=".")
    assert ended.finish_reasons == ["stop"] and len(ids(ended)) == 5


def test_what_is_not_there(story):
    for position in (25, -25):
        with pytest.raises(IndexError, match="outside"):
            story.branch(position, "a")
    with pytest.raises(IndexError, match="choice 3"):
        story.branch(0, "a", choice=3)
    for token, said in ((10**6, "not in the vocabulary"), (-1, "not in the vocabulary"), ("", "empty")):
        with pytest.raises(RequestError, match=said) as told:
            story.branch(0, token)
        assert told.value.param == "token"


TABLE = (b"a", b"b", b" the", b"t", b"h", b"e", b" ", None, b"\xf0", b"\x9f", b"the", b"a")
NAMES = {7: "<end>"}


@pytest.mark.parametrize(
    ("token", "found"),
    [
        (5, [5]),
        (np.int64(5), [5]),
        ("the", [10]),
        (b" the", [2]),
        ("<end>", [7]),
        ("a", [11]),
        (b"\xf0\x9f", [8, 9]),
        (" thea", [2, 0]),
        ("ab", [0, 1]),
    ],
    ids=str,
)
def test_how_a_token_is_spelled(token, found):
    """By one token where there is one, and of two alike the later; else by the longest that fit."""
    assert TokenNames(TABLE, NAMES).spell(token, lambda text: []) == found


def test_what_the_tokenizer_takes_comes_first():
    def encode(text):
        return {"a": [0], "tb": [3, 1], "the": [2]}[text]  # the last is spelled with a space before it

    def find(token):
        return TokenNames(TABLE, NAMES).spell(token, encode)

    assert find("a") == [0] and find("tb") == [3, 1] and find("the") == [10]
    with pytest.raises(RequestError, match=r"no token of this vocabulary begins with b'\\xc3'"):
        TokenNames(TABLE, NAMES).spell("é", lambda text: [])


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_a_trees_laws_are_those_of_each_step(demo, story):
    tree = story.tree(3, 4, choice=1, position=6)
    assert len(tree) == 4 + 16 + 64 and tree.position == 6
    frame = tree.frame()
    assert_declared(frame, TREE_COLUMNS)
    assert (frame["parent"] == -1).sum() == 4 and (frame["depth"] - 1 + 6 == frame["position"]).all()
    before = [*story.prompt_ids.tolist(), *ids(story, 1)[:6]]
    for node in (-1, 0, 3, 4, 11, 19):
        way = [tree.nodes[at].token_id for at in tree.path(node)]
        law = demo.next_token(prompt=[*before, *way], temperature=0.9, top_p=0.95)
        children = tree.children(node)
        best = law.frame(top=4)
        assert [tree.nodes[at].token_id for at in children] == best["token_id"].tolist()
        for name in ("logprob", "sampling_logprob"):
            found = np.array([getattr(tree.nodes[at], name) for at in children])
            expected = best[name].to_numpy(float)
            np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
            np.testing.assert_allclose(found[np.isfinite(found)], expected[np.isfinite(found)], atol=1e-4)
    for at, node in enumerate(tree.nodes):
        assert node.path_logprob == pytest.approx(sum(tree.nodes[k].logprob for k in tree.path(at)))
        assert frame["text"][at] == demo.backend.tokenizer.decode([tree.nodes[k].token_id for k in tree.path(at)])
    taken = [node.token_id for node in tree.nodes if node.taken]
    assert taken == ids(story, 1)[6 : 6 + len(taken)] and frame["taken"].sum() == len(taken)
    assert math.fsum(math.exp(node.path_logprob) for node in tree.nodes if node.depth == 3) <= 1 + 1e-5


def test_nothing_follows_an_end_or_a_full_context(demo):
    short = demo.chat("Could you please tell me a tree? Only the answer.", seed=1)
    tree = short.tree(2, 3, position=len(ids(short)) - 1)
    ends = [at for at, node in enumerate(tree.nodes) if node.end]
    assert tree.nodes[0].end and all(not tree.children(at) for at in ends)
    assert len(tree) == 3 + 3 * sum(not node.end for node in tree.nodes if node.depth == 1)


def test_a_tree_follows_the_grammar_and_can_be_read(demo):
    formed = demo.chat("A person.", seed=1, max_tokens=8, response_format={"type": "json_object"})
    tree = formed.tree(3, 3)
    for at, node in enumerate(tree.nodes):
        allowed = demo.backend.allowed_tokens(
            formed.request,
            prompt=formed.prompt_ids,
            made=np.array([tree.nodes[k].token_id for k in tree.path(at)[:-1]], np.int32),
        )
        assert allowed[node.token_id]
    own = formed.choices[0].tokens
    found = {node.depth: node for node in tree.nodes if node.taken}
    assert found
    for depth, node in found.items():
        assert node.logprob == pytest.approx(own.logprob[depth - 1], abs=1e-4)
        assert node.sampling_logprob == pytest.approx(own.sampling_logprob[depth - 1], abs=1e-4)
    said = repr(tree)
    assert said.count("← taken") == len(found) and said.count("\n") == len(tree)
    assert "<pre" in tree._repr_html_()


def test_trees_that_are_too_large(story):
    for depth, width, param in ((0, 2, "depth"), (2, 21, "width"), (12, 20, "depth"), (2, True, "width")):
        with pytest.raises(RequestError) as told:
            story.tree(depth, width)
        assert told.value.param == param
