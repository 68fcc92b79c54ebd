"""What the cells of a notebook put out, without what may differ between two runs of the same code.

Numbers are masked (seconds, memory and the last digits of a logit are another machine's), and so are addresses, ids and
paths; the kinds of outputs, the columns of frames and every word are not.
"""

from __future__ import annotations

import difflib
import re
from html.parser import HTMLParser
from typing import Any, NamedTuple

from tests.notebooks.run import code_cells

#: The forms of one output, the richest first: the one that a reader sees.
_FORMS = ("image/png", "image/svg+xml", "text/html", "text/markdown", "text/latex", "application/json", "text/plain")
_WIDGET = "application/vnd.jupyter.widget-view+json"

_NUMBER = r"[-+−]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_MASKS = (
    (re.compile(r"\b0x[0-9a-fA-F]+"), "#"),
    (re.compile(r"\b(chatcmpl|call|fp|req)[-_]\w*\d\w*"), r"\1-#"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b"), "#"),
    (re.compile(r"(?<![\w/])(?:/[\w.~+-]+){2,}/?"), "/#"),
    (re.compile(_NUMBER), "#"),
    # A number may take another unit elsewhere.
    (re.compile(r"# ?(?:[kMGT]?i?B|[nµm]?s|min|h)\b"), "# unit"),
)


class Output(NamedTuple):
    """One output as it is compared."""

    kind: str  #: "stdout", "warning", "error", or the richest form: image/png, text/html, text/plain, ...
    columns: tuple[tuple[str, ...], ...] = ()  #: of the tables in it, with the names of their levels
    text: str = ""  #: masked


def masked(text: str) -> str:
    """A text with `#` for what may differ between two runs, and single blanks between its words."""
    text = " ".join(text.split())
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def outputs(cell: Any) -> list[Output]:
    """What a code cell put out; progress bars left out, which come on slow machines alone."""
    found: list[Output] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            one = _stream(output)
            if one is not None and found and found[-1].kind == one.kind:  # one text, sent in pieces
                one = one._replace(text=found.pop().text + one.text)
        elif output.output_type == "error":
            one = Output("error", text=output.ename)
        else:
            one = _rich(output.data)
        if one is not None:
            found.append(one)
    return [one._replace(text=masked(one.text)) for one in found]


#: What a cell prints that needs a program which is not installed, and does without it.
SKIPPED = "Skipped: "


def differences(old: Any, new: Any) -> list[str]:
    """What the outputs of two runs of a notebook differ in, a line or more each; empty where they agree.

    A cell with the tag "optional" may have been skipped in one of them.
    """
    before, after = code_cells(old), code_cells(new)
    if len(before) != len(after):
        return [f"{len(before)} code cells, and {len(after)} in the new run"]
    found = []
    for number, (one, other) in enumerate(zip(before, after, strict=True), start=1):
        if "optional" in one.metadata.get("tags", ()) and (_is_skipped(one) or _is_skipped(other)):
            continue
        head = f"code cell {number} ({one.source.strip().splitlines()[-1] if one.source.strip() else 'empty'})"
        found += [f"{head}: {what}" for what in _differences(outputs(one), outputs(other))]
    return found


def _is_skipped(cell: Any) -> bool:
    return any(one.text.startswith(SKIPPED) for one in outputs(cell))


def _differences(old: list[Output], new: list[Output]) -> list[str]:
    if [one.kind for one in old] != [one.kind for one in new]:
        return [f"outputs {[one.kind for one in old]}, now {[one.kind for one in new]}"]
    found = []
    for one, other in zip(old, new, strict=True):
        if one.columns != other.columns:
            found.append(f"columns {one.columns}, now {other.columns}")
        if one.text != other.text:
            found.append(f"{one.kind} reads otherwise: {_changed(one.text, other.text)}")
    return found


def _changed(old: str, new: str) -> str:
    a, b = old.split(" "), new.split(" ")
    parts = [
        f"{' '.join(a[i:j])!r} -> {' '.join(b[k:m])!r}"
        for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        if tag != "equal"
    ]
    return "; ".join(parts[:5]) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "")


def _stream(output: Any) -> Output | None:
    if output.name == "stdout":
        return Output("stdout", text=output.text)
    # Progress bars and remarks of the machine's libraries go there too; a warning is the notebook's own doing.
    return Output("warning", text=output.text) if re.search(r"Warning: ", output.text) else None


def passing(data: Any) -> bool:
    """Whether a display is a progress bar, or the nothing that one leaves behind: it comes on slow machines alone."""
    return _WIDGET in data or dict(data) == {"text/plain": ""}


def _rich(data: Any) -> Output | None:
    if passing(data):
        return None
    kind = next((form for form in _FORMS if form in data), None)
    if kind is None:
        return Output(" ".join(sorted(data)))
    if kind == "text/html":
        page = _Page()
        page.feed(data[kind])
        page.close()
        return Output(kind, columns=tuple(page.columns), text=" ".join(page.texts))
    return Output(kind, text="" if kind.startswith("image/") else str(data[kind]))


class _Page(HTMLParser):
    """The words of a piece of HTML, its tables' heads apart: what a frame's columns are."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.columns: list[tuple[str, ...]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("style", "script", "thead", "th"):
            self._open.append(tag)
        if tag == "thead":
            self.columns.append(())
        elif tag == "th" and "thead" in self._open:
            self.columns[-1] += ("",)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "script" in self._open or not data.strip():
            return
        if "thead" in self._open and self.columns[-1]:
            self.columns[-1] = (*self.columns[-1][:-1], self.columns[-1][-1] + data.strip())
        else:
            self.texts.append(data)
