from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from llmlab.display import palette
from llmlab.display.strip import page, strip
from llmlab.protocol.completion import ToolCall
from llmlab.protocol.request import PromptRequest

NAMES = {37: "<|im_end|>", 38: "<|endoftext|>"}
VOID = {"br", "meta"}


class Tree(HTMLParser):
    """Reads a page strictly: every tag closed in its turn. Keeps the tokens, the tags, and the readable text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.tokens: list[dict[str, str]] = []
        self.text = ""
        self.attributes: set[str] = set()
        self._depth: int | None = None
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        assert len({name for name, _ in attrs}) == len(attrs)
        found = dict(attrs)
        if "title" in found:
            self.tokens.append({"class": found["class"] or "", "title": found["title"] or "", "text": ""})
            self._depth = len(self.open)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if self._depth == len(self.open):
            self._depth = None

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self._depth is not None:
            self.tokens[-1]["text"] += data


def test_every_hard_token_is_shown_and_escaped(hard) -> None:
    source = strip(hard, names=NAMES)
    tree = Tree(source)
    tokens = hard.choices[0].tokens
    assert len(tree.tokens) == len(tokens)
    shown = dict(zip(tokens.bytes, (token["text"] for token in tree.tokens), strict=True))
    assert shown[b"<script>"] == "<script>"
    assert shown[b"&amp;"] == "&amp;"
    assert shown[b'"'] == '"'
    assert shown[b" "] == "␣"
    assert shown[b"\r\n"] == "\\r⏎"
    assert shown[b"\n\n"] == "⏎⏎"
    assert shown[b"\xf0\x9f"] == "<F0><9F>"
    assert shown[b"\xa6\x8a"] == "<A6><8A>→🦊"
    assert shown["中".encode()] == "中"
    assert shown[b""] == "∅"
    assert shown[b" end "] == " end␣"
    assert [token["text"] for token in tree.tokens if "control" in token["class"]] == ["<|endoftext|>", "<|im_end|>"]
    assert source.count("<br>") == sum(raw.count(b"\n") for raw in tokens.bytes if raw)
    assert not {"script", "link", "img", "iframe"} & tree.tags
    assert not [name for name in tree.attributes if name.startswith("on")]
    assert "http" not in source and "@import" not in source


def test_a_title_says_everything_about_its_token(hard) -> None:
    tokens = hard.choices[0].tokens
    for t, token in enumerate(Tree(strip(hard, names=NAMES)).tokens):
        lines = token["title"].splitlines()
        assert lines[0].endswith(f"   id {tokens.ids[t]}")
        figures = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("prob", "logp", "entr"))}
        assert figures["logprob"] == [f"{tokens.logprob[t]:.3f}", f"{tokens.sampling_logprob[t]:.3f}"]
        assert figures["entropy"] == [f"{tokens.entropy[t]:.3f}", f"{tokens.sampling_entropy[t]:.3f}"]
        assert f"rank {tokens.rank[t]} · kept {tokens.kept[t]}" in lines
        assert f"margin {tokens.margin[t]:.3f} · position {t}" in lines
        *rows, others = lines[lines.index("    raw  sampl.") + 1 :]
        assert len(rows) == 5 and others.endswith("all others")
        left = [
            1 - np.exp(values[t, :5].astype(float)).sum()
            for values in (tokens.top_logprob, tokens.top_sampling_logprob)
        ]
        assert [float(value) for value in others.split()[:2]] == pytest.approx(left, abs=6e-4)
        assert [float(row.split()[0]) for row in rows] == pytest.approx(np.exp(tokens.top_logprob[t, :5]), abs=6e-4)
        assert ["▸" in row for row in rows] == (tokens.top_ids[t, :5] == tokens.ids[t]).tolist()
        cells = [row.count("█") for row in rows]
        assert cells == [int(round(80 * p) // 8) for p in np.exp(tokens.top_logprob[t, :5].astype(float))]


def test_a_title_fits_its_panel_whatever_the_vocabulary(make_tokens, make_completion) -> None:
    tokens = make_tokens([8] * 3)
    large = replace(
        tokens,
        ids=np.full(3, 151_935, np.int32),
        bytes=(b" an-unreasonably-long-token",) * 3,
        top_bytes=((b" an-unreasonably-long-token",) * 20,) * 3,
        rank=np.full(3, 151_936, np.int32),
        kept=np.full(3, 151_936, np.int32),
        margin=np.full(3, -12.345, np.float32),
        logprob=np.full(3, -12.345, np.float32),
    )
    page = strip(make_completion(large))
    titles = re.findall(r'class="k[^>]*title="([^"]*)"', page)
    assert len(titles) == 3
    lines = [line for title in titles for line in unescape(title).splitlines()]
    assert max(map(len, lines)) <= 41 and "rank 151,936 · kept 151,936" in lines
    assert len(lines) == 3 * (9 + 5 + 1) and f"--tall:{22 + 18 * 15}px" in page, "the panel has room for all of them"


def test_the_colour_and_a_second_sign_follow_the_probability(make_tokens, make_completion) -> None:
    probabilities = [1.0, 0.9, 0.8, 0.6, 0.3, 0.2, 0.05, 0.02, 0.001, 0.0]
    steps = [0, 0, 1, 2, 3, 4, 5, 6, 7, 7]
    tokens = make_tokens([0] * len(probabilities))
    with np.errstate(divide="ignore"):
        logprob = np.log(np.array(probabilities)).astype(np.float32)
    logprob[1] = np.log(np.float32(0.9)) + 1e-6
    for by in ("logprob", "sampling_logprob"):
        tree = Tree(strip(make_completion(replace(tokens, **{by: logprob})), by=by))
        for token, at in zip(tree.tokens, steps, strict=True):
            assert token["class"] == f"k p{at} {palette.STEP_SIGNS[at]}".rstrip()


def test_what_is_not_known_has_no_colour_and_no_number(make_tokens, make_completion) -> None:
    tokens = make_tokens((0, 1))
    nan, unknown = np.full(2, np.nan, np.float32), np.full(2, -1, np.int32)
    blind = replace(
        tokens, ids=unknown, logprob=nan, sampling_logprob=nan, entropy=nan, sampling_entropy=nan, margin=nan,
        rank=unknown, kept=unknown, top_ids=np.zeros((2, 0), np.int32), top_bytes=((), ()),
        top_logprob=np.zeros((2, 0), np.float32), top_sampling_logprob=np.zeros((2, 0), np.float32),
    )  # fmt: skip
    for token in Tree(strip(make_completion(blind))).tokens:
        assert token["class"] == "k unknown"
        assert not re.search(r"nan|-1\b", token["title"])
        assert "rank – · kept –\nmargin – · position " in token["title"]
        assert "raw  sampl." not in token["title"]


def test_segments_and_finish_reasons_are_named(make_tokens, make_completion) -> None:
    thinking = make_tokens((34, 0, 35, 1, 37), segment=("reasoning",) * 3 + ("content", "end"))
    calling = make_tokens((0, 1), segment=("tool_call",) * 2)
    source = strip(make_completion(thinking, calling, finish="tool_calls"), names=NAMES)
    assert re.findall(r'<div class="run" data-segment="([^"]*)"', source) == ["reasoning", "tool call"]
    assert source.count('<div class="run"') == 3, "the end token stays beside the content"
    text = Tree(source).text
    assert text.count("finished: tool_calls") == 2
    assert "choice 0" in text and "choice 1" in text


def test_calls_stand_below_the_tokens_that_made_them(make_tokens, make_completion) -> None:
    completion = make_completion(make_tokens((0, 1), segment=("tool_call",) * 2), finish="tool_calls")
    call = ToolCall("call_1", "get_<b>", '{"city": "Paris"}')
    source = strip(replace(completion, choices=(replace(completion.choices[0], tool_calls=(call,)),)))
    assert '→ get_<b>({"city": "Paris"})' in Tree(source).text
    assert "get_<b>" not in source


def test_a_page_shows_what_was_asked(make_tokens, make_completion) -> None:
    completion = make_completion(make_tokens((0,)))
    for prompt, shown in (("Once <i>upon", "prompt Once <i>upon"), ([1, 2, 3], "prompt 3 token ids")):
        assert shown in Tree(page(replace(completion, request=PromptRequest(prompt=prompt)))).text
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert "assistant → f({})" in Tree(page(make_completion(make_tokens((0,)), messages=messages))).text


def test_bytes_outside_the_text_are_struck_through(make_tokens, make_completion) -> None:
    tokens = make_tokens((9, 0), segment=("content", "content"))
    cut = replace(tokens, lead=np.array([0, 1], np.int32), overhang=np.array([0, 2], np.int32))
    assert "<s>O</s>n<s>ce</s>" in strip(make_completion(cut))


def test_the_summary_line(story) -> None:
    text = Tree(strip(story)).text
    assert "toy · seed 7 · temperature 0.7 · 11 tokens in 0.50 s · 22 tokens/s" in text


@pytest.mark.parametrize("choices", [0, 1, 3])
def test_nothing_generated_is_still_a_page(make_tokens, make_completion, choices: int) -> None:
    tree = Tree(page(make_completion(*[make_tokens(()) for _ in range(choices)])))
    assert tree.tokens == []
    assert tree.text.count("no tokens") == choices


def test_a_limit_says_what_it_left_out(make_tokens, make_completion) -> None:
    completion = make_completion(*[make_tokens((0, 1, 2, 3))] * 5)
    tree = Tree(strip(completion, limit=6))
    assert len(tree.tokens) == 6
    assert "… and 2 more tokens" in tree.text and "… and 3 more choices" in tree.text


def test_a_page_holds_the_messages_and_several_strips_fit_in_one(story) -> None:
    tree = Tree(page(story))
    assert "user Tell me a <b>story</b>." in tree.text
    both = strip(story) + strip(story)
    assert " id=" not in both, "ids would clash"
    sheets = re.findall(r"<style>(.*?)</style>", both)
    assert len(sheets) == 2 and sheets[0] == sheets[1]
    # Every rule is inside the part's own, or names it: none reaches the rest of the page.
    depth, apart = 0, ""
    for sign in sheets[0]:
        depth += (sign == "{") - (sign == "}")
        apart += sign if depth == 0 or not apart.rsplit("}", 1)[-1].startswith(".llmlab-strip{") else ""
    for selector in re.findall(r"(?:^|[{}])\s*([^{}@]+?)\s*\{", apart):
        assert ".llmlab-strip" in selector, selector
    assert len(sheets[0]) < 6_000


@pytest.mark.parametrize("ramp", [palette.LIGHT_RAMP, palette.DARK_RAMP])
def test_every_step_can_be_read_and_lies_evenly(ramp: tuple[palette.Ink, ...]) -> None:
    assert len(ramp) == len(palette.STEPS) + 1 == len(palette.STEP_SIGNS) == len(palette.step_names())
    assert [palette.contrast(*ink) for ink in ramp] == [pytest.approx(max(palette.contrast(*ink), 4.5)) for ink in ramp]
    lightness = np.array([_oklab_lightness(ink.back) for ink in ramp])
    steps = np.diff(lightness)
    assert (np.sign(steps) == np.sign(steps[0])).all()
    assert abs(steps).min() > 0.8 * abs(steps).max(), "even steps"


def test_everything_else_that_is_written_can_be_read() -> None:
    inks = [
        palette.LIGHT_PAGE, palette.DARK_PAGE, palette.LIGHT_FAINT, palette.DARK_FAINT, palette.LIGHT_CONTROL,
        palette.DARK_CONTROL, palette.LIGHT_PANEL, palette.DARK_PANEL,
    ]  # fmt: skip
    assert all(palette.contrast(*ink) >= 4.5 for ink in inks)
    assert palette.LIGHT_FAINT.back == palette.LIGHT_PAGE.back and palette.DARK_FAINT.back == palette.DARK_PAGE.back
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the textbook near miss


def _oklab_lightness(colour: str) -> float:
    """Ottosson's OKLab, 2020: the lightness of an sRGB colour."""
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(
        linear
        @ np.array(
            [[0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
             [0.0514459929, 0.1073969566, 0.6299787005]]
        )
    )  # fmt: skip
    return float(cones @ np.array([0.2104542553, 0.7936177850, -0.0040720468]))
