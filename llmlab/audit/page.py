"""The report of an audit as HTML: what was found, what is as it should be, and what was not tested, in this order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmlab.audit.subject import Finding
from llmlab.display.html import Markup, fragment
from llmlab.display.theme import page_sheet, style_sheet
from llmlab.text.numbers import count

#: The groups of findings: what `ok` is in them, the class of their style, and what they are called.
_GROUPS = ((False, "found", "found"), (True, "fine", "as it should be"), (None, "untested", "not tested"))


def report(verdict: str, cost: str, findings: Sequence[Finding]) -> Markup:
    """The report as a fragment of HTML.

    Args:
        verdict: the outcome in one sentence.
        cost: what it cost, and how often an audit is wrong.
        findings: of every test.
    """
    rows = Markup("")
    for ok, kind, called in _GROUPS:
        some = [one for one in findings if one.ok is ok]
        if some:
            rows += _group(some, kind, f"{len(some)} {called}")
    return fragment(
        '<div class="llmlab-audit"><style>{}</style><p class="verdict">{}</p><p class="cost">{}</p>'
        "<table>{}</table></div>",
        style_sheet("audit"),
        verdict,
        cost,
        rows,
    )


def page(title: str, inside: Markup) -> str:
    """A report as a page of its own."""
    return str(
        fragment(
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<title>{}</title><style>{}</style></head><body>{}</body></html>\n",
            title,
            page_sheet(),
            inside,
        )
    )


def _group(findings: Sequence[Finding], kind: str, called: str) -> Markup:
    head = fragment('<tr><th colspan="2"><span class="mark">{}</span></th><th class="p">p</th></tr>', called)
    if kind == "untested":
        head = fragment('<tr><th colspan="3"><span class="mark">{}</span></th></tr>', called)
    rows = Markup("").join(
        fragment(
            '<tr><td>{}</td><td>{}</td><td class="p">{}</td></tr>',
            one.name,
            one.what,
            p_value(one.p_value),
        )
        for one in findings
    )
    return fragment('<tbody class="{}">{}{}</tbody>', kind, head, rows)


def p_value(value: float) -> str:
    """A p-value in two digits; nothing where a test was not made."""
    return "" if math.isnan(value) else f"{value:.2g}"


def cost(requests: int, tokens: int, rate: float) -> str:
    """What an audit cost, and the probability of a false alarm."""
    return (
        f"{count(requests, 'request')}, {count(tokens, 'token')}. False alarms in at most {rate:.0%} of honest "
        "endpoints, over all tests together."
    )
