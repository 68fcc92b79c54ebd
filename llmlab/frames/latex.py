"""Dataframes as LaTeX tables that can be typeset: every character escaped, white space and bytes made visible."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlab.errors import RequestError, short
from llmlab.protocol.arguments import file_path, flag, listed, whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_latex"]

#: Characters that LaTeX reads as commands, that its old fonts lack, or that it joins with their neighbours.
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
}  # fmt: skip
#: Signs for white space, and characters outside ASCII that every LaTeX has a command for.
_SIGNS = {
    "\n": r"\textbackslash{}n", "\r": r"\textbackslash{}r", "\t": r"\textbackslash{}t", "\N{NO-BREAK SPACE}": "~",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\textellipsis{}", "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "€": r"\texteuro{}",
    "•": r"\textbullet{}",
}  # fmt: skip
_SPACE, _MISSING = r"\textvisiblespace{}", r"\textendash{}"
#: A character that LaTeX would join with the next one, which is the same.
_LIGATURE = re.compile(r"([-,])(?=\1)")
#: The last character of the blocks that a LaTeX with 8-bit fonts reads: Latin-1 and Latin Extended-A.
_LAST_LATIN = 0x17F
#: Letters of these blocks that its fonts lack.
_LACKING = frozenset("ĦħĸĿŀŉŦŧſ")


def to_latex(
    frame: pd.DataFrame,
    path: str | os.PathLike[str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    digits: int = 3,
    unicode: bool = False,
) -> str:
    """Returns a dataframe as a LaTeX table (`tabular`, with the rules of the package booktabs).

    The characters that LaTeX treats specially are escaped, also in the names of columns. A space at the beginning or
    the end of a text, or beside another space, is a visible one; line breaks are written \\n, bytes in hexadecimal
    digits, minus infinity as a sign and a missing value as a dash. A character that pdflatex cannot set is written as
    its code point, such as U+4E2D. The document needs `\\usepackage[T1]{fontenc}`, textcomp and booktabs.

    Args:
        frame: any dataframe.
        path: a file to write the table to as well.
        columns: the columns to show, in this order; by default all of them.
        digits: the number of digits after the decimal point.
        unicode: keep every visible character as it is, for xelatex or lualatex with a font that has them.

    Raises:
        RequestError: there is no such column, or an argument is of the wrong type.
    """
    target = None if path is None else file_path(path)
    digits, unicode = whole("digits", digits, least=0, most=17), flag("unicode", unicode)
    names = list(frame.columns) if columns is None else listed("columns", columns, of="columns")
    for name in names:
        if name not in frame.columns:
            raise RequestError(f"columns: there is no {short(name)}; there are {list(frame.columns)}", param="columns")
    sides = "".join("r" if _is_numeric(frame[name]) else "l" for name in names)
    head = [escaped(str(name), unicode=unicode) for name in names]
    rows = [[_cell(value, digits, unicode) for value in row] for row in frame[names].itertuples(index=False, name=None)]
    lines = [
        rf"\begin{{tabular}}{{{sides}}}", r"\toprule", _row(head), r"\midrule", *map(_row, rows), r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    if target is not None:
        Path(target).write_text(text, encoding="utf-8")
    return text


def escaped(text: str, *, unicode: bool = False) -> str:
    """A text as LaTeX, on one line; see `to_latex`."""
    parts = re.split(r"( +)", text)  # texts, and between them the spaces
    for at, part in enumerate(parts):
        if not part.startswith(" "):
            parts[at] = "".join(_character(char, unicode=unicode) for char in part)
        elif part != " " or not parts[at - 1] or not parts[at + 1]:
            parts[at] = _SPACE * len(part)
    return _LIGATURE.sub(r"\1{}", "".join(parts))


def _character(char: str, *, unicode: bool) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char in _SIGNS and not (unicode and char.isprintable()):
        return _SIGNS[char]
    settable = unicode or (0xA1 <= ord(char) <= _LAST_LATIN and char not in _LACKING)
    if " " <= char <= "~" or (char.isprintable() and settable):
        return char
    return f"U+{ord(char):04X}"


def _cell(value: Any, digits: int, unicode: bool) -> str:
    if isinstance(value, str):
        return escaped(value, unicode=unicode)
    if isinstance(value, bytes):
        return rf"\texttt{{{value.hex(' ')}}}" if value else ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return _MISSING
        if np.isinf(value):
            return r"$-\infty$" if value < 0 else r"$\infty$"
        return f"${value:.{digits}f}$" if value < 0 else f"{value:.{digits}f}"
    if isinstance(value, int | np.integer):
        return f"${value}$" if value < 0 else str(value)
    return _MISSING if value is None or value is _na() else escaped(str(value), unicode=unicode)


def _na() -> Any:
    import pandas as pd

    return pd.NA


def _is_numeric(column: pd.Series) -> bool:
    return bool(column.dtype.kind in "iuf")


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
