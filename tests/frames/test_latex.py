"""Frames as LaTeX tables: what LaTeX would take for a command or could not set is escaped, and a real LaTeX sets it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmlab.errors import RequestError
from llmlab.frames.latex import escaped, to_latex

#: Every character of ASCII and Latin-1 and Extended-A, and some that no 8-bit font has.
EVERYTHING = "".join(map(chr, range(0x180))) + "中😀\u200b\ufffd\ud800—…“”‘’€•\u0301"


@pytest.mark.parametrize("char", list("&%$#_{}"))
def test_special_characters_are_escaped_as_pandas_does(char: str) -> None:
    table = pd.DataFrame({"x": [f"a{char}b"]}).to_latex(index=False, escape=True)
    assert f"{escaped(f'a{char}b')} \\\\" in table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" but", r"\textvisiblespace{}but"),
        ("so it", "so it"),
        ("a  b ", r"a\textvisiblespace{}\textvisiblespace{}b\textvisiblespace{}"),
        ("\n\n", r"\textbackslash{}n\textbackslash{}n"),
        ("<|im_end|>", r"\textless{}\textbar{}im\_end\textbar{}\textgreater{}"),
        ("--", "-{}-"),
        ("``", r"\textasciigrave{}\textasciigrave{}"),
        ("é", "é"),
        ("中", "U+4E2D"),
        ("\ufffd", "U+FFFD"),
        ("", ""),
    ],
)
def test_a_token_is_seen_as_it_is(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_other_engines_keep_what_can_be_seen() -> None:
    assert escaped("中 “é”\u200b", unicode=True) == "中 “é”U+200B"


def test_nothing_is_left_for_latex_to_read() -> None:
    shown = escaped(EVERYTHING)
    without = re.sub(r"\\(?:[a-zA-Z]+\{\}|[&%$#_{}])|[-,]\{\}", "", shown)
    assert not set(without) & set("\\{}$&#%^_~\n\r\t") - {"~"}, "a no-break space is a tilde"
    assert without.count("~") == 1 and without.isprintable()


def test_a_table_has_every_kind_of_value(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "token_id": [1, -2],
            "token": pd.Categorical([" a", "\n"]),
            "bytes": [b"\xe2\x80", None],
            "logprob": [-0.25, -np.inf],
            "kept": [True, False],
            "lost": [np.nan, 0.5],
            "maybe": pd.array([None, 3], dtype="Int64"),
        }
    )
    path = tmp_path / "t.tex"
    text = to_latex(frame, path, digits=2)
    assert text == path.read_text(encoding="utf-8")
    assert text.splitlines() == [
        r"\begin{tabular}{rllrlrr}",
        r"\toprule",
        r"token\_id & token & bytes & logprob & kept & lost & maybe \\",
        r"\midrule",
        r"1 & \textvisiblespace{}a & \texttt{e2 80} & $-0.25$ & yes & \textendash{} & \textendash{} \\",
        r"$-2$ & \textbackslash{}n & \textendash{} & $-\infty$ & no & 0.50 & 3 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert "token & logprob" in to_latex(frame, columns=["token", "logprob"])
    for bad, said in (({"columns": ["x"]}, "there is no 'x'"), ({"digits": -1}, "digits must be between 0 and 17")):
        with pytest.raises(RequestError, match=said):
            to_latex(frame, **bad)


def test_a_result_has_a_table(demo, tmp_path: Path) -> None:
    result = demo.chat("Tell me a short story.", seed=1, max_tokens=5)
    text = result.to_latex(tmp_path / "r.tex")
    assert text.count(r"\\") == 6 and (tmp_path / "r.tex").read_text() == text
    assert r"sampling\_logprob" in text.splitlines()[2]
    assert f"{result[0].tokens.logprob[0]:.2f}" in result.to_latex(columns=["logprob"], digits=2)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex on this machine")
def test_pdflatex_sets_it(demo, tmp_path: Path) -> None:
    texts = [EVERYTHING[at : at + 30] for at in range(0, len(EVERYTHING), 30)]
    result = demo.chat("Tell me a short story.", seed=1, max_tokens=12)
    tables = [
        to_latex(pd.DataFrame({"a_b": texts}, dtype=object)),
        to_latex(result.logprobs_frame()),
        to_latex(result.top_logprobs_frame()),
        to_latex(demo.next_token("Hi").stages_frame(top=3)),
        to_latex(demo.sweep(["a_b", "100%"], temperature=[0, 1], n=1, max_tokens=4).frame()),
    ]
    body = "\n\n\\tiny ".join(tables)
    document = (
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{textcomp,booktabs}"
        f"\\begin{{document}}\n\\tiny {body}\n\\end{{document}}\n"
    )
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert ran.returncode == 0 and "Missing character" not in log, [
        line for line in log.splitlines() if line.startswith("!") or "Missing character" in line
    ][:5] or sys.stderr.write(log)
