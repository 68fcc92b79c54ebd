"""What makes a notebook stale, and what does not."""

from __future__ import annotations

import copy
from pathlib import Path

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks.outputs import differences, masked, outputs
from tests.notebooks.refresh import refreshed
from tests.notebooks.run import code_hash, recorded_hash, run

PIXEL = "iVBORw0KGgo="
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%"}


def cell(*found):
    return new_code_cell("x", outputs=list(found))


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", {name.replace("_", "/"): value for name, value in data.items()})


def framed(frame):
    return shown(text_html=frame.to_html(), text_plain=repr(frame))


def compared(old, new):
    return differences(new_notebook(cells=[old]), new_notebook(cells=[new]))


def test_an_optional_cell_may_be_skipped_on_one_side() -> None:
    ran, skipped, other = (cell(stream(text)) for text in ("found 3", "Skipped: it needs torch.\n", "found none"))
    assert compared(ran, skipped) != []
    for one in (ran, skipped, other):
        one.metadata["tags"] = ["optional"]
    assert compared(ran, skipped) == compared(skipped, ran) == [] != compared(ran, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("791 tokens/s · 0.31 s", "1,204 tokens/s · 98 ms"),
        ("24.5 GB of memory free", "850 MB of memory free"),
        ("logprob -1.928517, entropy 2e-05", "logprob -1.9285, entropy 0.0"),
        ("<Styler at 0x7f71433d5fd0>", "<Styler at 0x7f1>"),
        ("chatcmpl-5f3a9 of fp_1ab2", "chatcmpl-77 of fp_9"),
        ("seed 7390213551", "seed 1"),
        ("saved at /srv/data/a.parquet", "saved at /mnt/x/y/z.parquet"),
        ("0.5  12\n3  4", "0.25 1 3 44"),
    ],
)
def test_what_two_runs_may_differ_in_is_masked(one: str, other: str) -> None:
    assert masked(one) == masked(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Blue 3", "Red 3"), ("stop", "length"), ("a b", "a b c"), ("top_p", "top_k")]
)
def test_words_are_not_masked(one: str, other: str) -> None:
    assert masked(one) != masked(other)


def test_the_same_run_elsewhere_is_no_difference() -> None:
    frame = pd.DataFrame({"token": ["Blue"], "logprob": [-1.25]})
    old = cell(stream("took 0.31 s\n"), framed(frame), shown(image_png=PIXEL, text_plain="<Figure>"))
    # In pieces, beside a progress bar, with other figures and another picture.
    new = cell(
        stream("took "),
        new_output("display_data", WIDGET),
        new_output("display_data", {"text/plain": ""}),  # a bar that is gone
        stream("100%|##########| 3/3", name="stderr"),
        stream("2 s\n"),
        framed(frame.assign(logprob=[-1.26])),
        shown(image_png=PIXEL * 2, text_plain="<Figure>"),
    )
    assert compared(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (shown(text_plain="3"), shown(image_png=PIXEL), "outputs ['text/plain'], now ['image/png']"),
        (shown(image_png=PIXEL), None, "outputs ['image/png'], now []"),
        (stream("Blue 3\n"), stream("Red 3\n"), "stdout reads otherwise: 'Blue' -> 'Red'"),
        (stream("3\n"), stream("w.py:1: UserWarning: no\n", name="stderr"), "now ['warning']"),
        (
            framed(pd.DataFrame({"token": ["a"], "logprob": [1]})),
            framed(pd.DataFrame({"token": ["a"], "prob": [1]})),
            "columns (('', 'token', 'logprob'),), now (('', 'token', 'prob'),)",
        ),
        (
            framed(pd.DataFrame({"token": ["a", "b"]})),
            framed(pd.DataFrame({"token": ["a", "c"]})),
            "text/html reads otherwise: 'b' -> 'c'",
        ),
        (framed(pd.DataFrame({"t": ["a"]})), framed(pd.DataFrame({"t": ["a", "a"]})), "text/html reads otherwise"),
    ],
    ids=["kind", "gone", "word", "warning", "columns", "frame's word", "frame's length"],
)
def test_a_stale_output_is_told(old, new, said) -> None:
    told = compared(cell(old), cell(*[one for one in (new,) if one is not None]))
    assert len(told) == 1 and said in told[0] and told[0].startswith("code cell 1 (x): ")


def test_style_and_attributes_are_not_read() -> None:
    page = '<style>td {color: red}</style><b title="1 of 2">so <i id="a">it</i></b><script>x = 1</script>'
    assert [one.text for one in outputs(cell(shown(text_html=page)))] == ["so it"]


def test_a_notebook_is_refreshed_and_then_grows_stale(tmp_path: Path) -> None:
    code = ["import pandas as pd, sys, time", "print('took', time.time())", "pd.DataFrame({'a': [1.5]})"]
    written = new_notebook(cells=[new_markdown_cell("# Title"), *map(new_code_cell, code)])
    written.cells[2].source += "; print('40%', file=sys.stderr)"
    kept = refreshed(written, folder=tmp_path)
    assert recorded_hash(kept) == code_hash(kept) == code_hash(written)
    assert recorded_hash(written) is None
    assert [one.kind for one in outputs(kept.cells[2])] == ["stdout"]
    assert differences(kept, run(kept, folder=tmp_path)) == []

    # Its prose may be mended without running it; its code may not.
    kept.cells[0].source = "# A better title"
    assert recorded_hash(kept) == code_hash(kept)
    changed = copy.deepcopy(kept)
    changed.cells[3].source = "pd.DataFrame({'b': [1.5]})"
    assert recorded_hash(changed) != code_hash(changed)
    # And code that is the same and does something else now is found by running it.
    kept.cells[3].outputs[0].data["text/html"] = pd.DataFrame({"b": [1.5]}).to_html()
    assert "code cell 3" in differences(kept, run(kept, folder=tmp_path))[0]


@pytest.mark.parametrize(
    ("code", "said"), [("import warnings; warnings.warn('mind')", "warns"), ("print('/home/ada/x')", "places")]
)
def test_what_must_not_be_kept_is_refused(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        refreshed(new_notebook(cells=[new_code_cell(code)]), folder=tmp_path)
