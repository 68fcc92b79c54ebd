from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from matplotlib import pyplot as plt
from pandas.testing import assert_frame_equal

from llmlab.errors import RequestError
from llmlab.protocol.completion import ToolCall
from llmlab.results.result import Result


@pytest.fixture
def two(make_tokens, make_completion) -> Result:
    return Result(make_completion(make_tokens((0, 1, 2, 3, 37)), make_tokens((6, 7), key=1)))


def test_it_reads_as_its_answers(two: Result) -> None:
    assert two.text == str(two) == "Once upon a time"
    assert two.texts == ["Once upon a time", " lived fox"]
    assert two.finish_reasons == ["stop", "stop"]
    assert (len(two), two.seed) == (2, 7)
    assert [choice.index for choice in two.choices] == [0, 1]


def test_a_terminal_gets_text_under_one_line_of_figures(two: Result) -> None:
    assert repr(two).splitlines() == [
        "Result: toy · seed 7 · 2 choices · 7 tokens · 14 tokens/s",
        "[0] stop, 5 tokens",
        "Once upon a time",
        "[1] stop, 2 tokens",
        " lived fox",
    ]


def test_reasoning_and_calls_are_told_apart_from_the_content(make_tokens, make_completion) -> None:
    completion = make_completion(make_tokens((2, 7, 0, 1, 37)), finish="tool_calls")
    calls = (ToolCall("call_1", "get_weather", '{"city": "Paris"}'), ToolCall("call_2", "get_time", "{}"))
    thought = replace(completion.choices[0], text="Once upon", reasoning="\na fox\n", tool_calls=calls)
    result = Result(replace(completion, choices=(thought,)))
    assert (result.reasoning, result.tool_calls) == ("\na fox\n", calls)
    assert repr(result).splitlines()[1:] == [
        "[0] tool_calls, 5 tokens",
        "(reasoning) a fox",
        "Once upon",
        '→ get_weather({"city": "Paris"})',
        "→ get_time({})",
    ]
    alone = Result(replace(completion, choices=(replace(thought, text="", reasoning=None),)))
    assert repr(alone).splitlines()[2] == '→ get_weather({"city": "Paris"})'
    message = alone.completion.choices[0].message
    assert message.content is None and [call.function.name for call in message.tool_calls] == [
        "get_weather",
        "get_time",
    ]
    assert (Result(completion).reasoning, Result(completion).tool_calls) == (None, ())


def test_a_large_result_is_cut_with_a_word(make_tokens, make_completion) -> None:
    many = Result(make_completion(*[make_tokens((0,))] * 11))
    assert repr(many).splitlines()[-1] == "… and 3 more choices"
    long = Result(make_completion(make_tokens((0,) * 1000)))
    assert len(repr(long)) < 2_200 and "… (4,000 characters)" in repr(long)
    assert "… and 100 more tokens" in Result(make_completion(make_tokens((0,) * 1100, alternatives=1)))._repr_html_()


def test_a_choice_is_no_page_of_arrays(make_tokens, make_completion) -> None:
    result = Result(make_completion(make_tokens([0] * 1_500), make_tokens([0])))
    first, second = result.choices
    assert "tokens=<1,500 tokens, 20 alternatives each>" in repr(first) and first.text in repr(first)
    assert repr(second.tokens) == "<1 token, 20 alternatives each>"
    assert repr(make_tokens([])) == "<0 tokens, 20 alternatives each>"
    assert len(repr(result.choices)) < len(first.text) + 500


def test_the_frames_and_the_strip_name_control_tokens(two: Result) -> None:
    frame, top = two.logprobs_frame(), two.top_logprobs_frame(alternatives=20)
    assert frame["token"].iloc[4] == "<|im_end|>"
    assert set(top.loc[top["bytes"].isna(), "token"]) <= {"<|im_end|>", "<|endoftext|>"}
    assert len(two.top_logprobs_frame()) == 5 * 7
    assert "&lt;|im_end|&gt;" in two._repr_html_() and "&lt;|im_end|&gt;" in two.to_html()


def test_the_page_is_written_where_it_says(two: Result, tmp_path) -> None:
    path = tmp_path / "strip.html"
    page = two.to_html(path, by="sampling_logprob")
    assert path.read_text("utf-8") == page == two.to_html(by="sampling_logprob") != two.to_html()
    with pytest.raises(RequestError, match="alternatives"):
        two.to_html(tmp_path / "none.html", alternatives=-1)
    assert not (tmp_path / "none.html").exists()


def test_plots_take_a_choice(two: Result) -> None:
    assert len(two.plot_logprobs(choice=1).get_xticklabels()) == 2
    assert two.plot_top_logprobs(-1, top=3).get_title(loc="left").startswith("position 4")
    with pytest.raises(IndexError, match="choice 2 is outside the 2 choices"):
        two.plot_logprobs(choice=2)
    plt.close("all")


def test_the_api_s_own_type(two: Result) -> None:
    from openai.types.chat import ChatCompletion

    assert isinstance(two.completion, ChatCompletion)
    assert [choice.message.content for choice in two.completion.choices] == two.texts
    assert two.usage is not None and two.usage.completion_tokens == 7


def test_it_does_not_change_and_survives_a_pickle(two: Result) -> None:
    for name in ("text", "seed", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(two, name, "other")
    with pytest.raises(AttributeError, match="immutable"):
        del two.seed
    copy = pickle.loads(pickle.dumps(two))
    assert copy.texts == two.texts and repr(copy) == repr(two)
    assert_frame_equal(copy.logprobs_frame(), two.logprobs_frame())
    assert copy.to_html() == two.to_html()


def test_nothing_generated_is_still_a_result(make_tokens, make_completion) -> None:
    for empty in (Result(make_completion(make_tokens(()))), Result(make_completion())):
        assert empty.text == ""
        assert len(empty.logprobs_frame()) == 0
        assert repr(empty).startswith("Result: toy")
        assert empty._repr_html_().startswith("<div")


def test_a_terminal_is_not_at_the_mercy_of_a_text(story) -> None:
    choice = replace(story.choices[0], text="a\x1b[31mred\rb\x07\n\tnext\x85", reasoning="\x1b[2J")
    shown = repr(Result(replace(story, choices=(choice,))))
    assert "a\\x1b[31mred\\x0db\\x07\n\tnext\\x85" in shown and "(reasoning) \\x1b[2J" in shown
    assert not set(shown) & set("\x1b\r\x07\x85")


def test_choices_are_taken_by_their_index_and_iterated_over(two: Result, make_completion) -> None:
    assert two[0] is two.choices[0] and two[1].text == " lived fox"
    assert two[-1] is two.choices[1] and two[-2] is two[0]
    assert list(two) == list(two.choices) and [choice.text for choice in two] == two.texts
    for bad in (2, -3):
        with pytest.raises(IndexError, match=f"index {bad} is outside the 2 choices"):
            two[bad]
    assert list(Result(make_completion())) == []


def test_tab_shows_what_can_be_asked_of_a_result(two: Result) -> None:
    shown = {name for name in dir(two) if not name.startswith("_")}
    assert shown == {
        "acceptance_rate", "branch", "certainty", "choices", "completion", "control_tokens", "data", "diff",
        "draft_frame", "finish_reasons", "kept_frame", "lab", "load", "logprobs_frame", "model", "next_token",
        "next_tokens", "notes", "order", "parent", "perplexities", "perplexity", "plot_draft", "plot_entropy",
        "plot_logprobs", "plot_surprisal", "plot_top_logprobs", "prompt_ids", "prompt_logprobs_frame", "reasoning",
        "request", "rerun", "samples_frame", "save", "seed", "sensitivity", "surprisal_frame", "text", "texts",
        "to_csv", "to_html", "to_latex", "tokens", "tool_calls", "top_logprobs_frame", "tree", "usage",
    }  # fmt: skip
