"""`llmlab audit`: what an endpoint's sampler really does. The exit status is 1 where something was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmlab.errors import LLMLabError

if TYPE_CHECKING:
    from llmlab.lab.lab import Lab

_TARGET = "An endpoint's base URL, such as http://127.0.0.1:8000/v1, or a model as in llmlab serve."


def audit(
    target: Annotated[str, typer.Argument(metavar="URL|MODEL", help=_TARGET)],
    model: Annotated[str | None, typer.Option(help="The model's name at the endpoint, if it has several.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="LLMLAB_API_KEY", help="Sent as the bearer token.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="URL|MODEL", help="The model whose weights the endpoint should serve.")
    ] = None,
    max_requests: Annotated[int, typer.Option(min=20, help="The most requests.")] = 500,
    max_tokens: Annotated[int, typer.Option(min=200, help="The most tokens to generate.")] = 60_000,
    false_alarms: Annotated[
        float, typer.Option(min=0, max=1, help="The probability that an honest endpoint has any finding.")
    ] = 0.01,
    seed: Annotated[int | None, typer.Option(help="Give every request a seed that follows from this one.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Make this test only; may be given several times.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as an HTML page, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Ask an endpoint a few hundred cheap questions, and say what its sampler really does."""
    # Status 1 says that something was found, so that an error must have another one.
    try:
        lab = _lab(target, model=model, api_key=api_key)
        other = None if reference is None else _lab(reference, model=None, api_key=api_key)
        typer.echo(f"{target}: at most {max_requests:,} requests and {max_tokens:,} tokens", err=True)
        found = lab.audit(
            reference=other,
            max_requests=max_requests,
            max_tokens=max_tokens,
            false_alarms=false_alarms,
            seed=seed,
            only=only or None,
        )
    except LLMLabError as error:
        typer.echo(f"llmlab: {' '.join(error.message.split())}", err=True)
        raise typer.Exit(2) from None
    for each in (lab, other):
        if each is not None:
            each.close()
    typer.echo(found.to_json(indent=2) if as_json else repr(found))
    if html is not None:
        try:
            found.to_html(html)
        except OSError as error:
            typer.echo(f"llmlab: {html} cannot be written: {error.strerror}", err=True)
            raise typer.Exit(2) from None
    raise typer.Exit(0 if found.ok else 1)


def _lab(target: str, *, model: str | None, api_key: str | None) -> Lab:
    import llmlab

    if target.startswith(("http://", "https://")):
        return llmlab.connect(target, model=model, api_key=api_key, quiet=True)
    return llmlab.load(target, quiet=True)
