"""Notes about where an endpoint deviated from the request, one line each, starting with the field's name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.backends.remote.choice_parser import FINISH_REASONS, ChoiceParser
from llmlab.protocol.completion import NO_END_TOKEN, ended_by_token
from llmlab.protocol.request import Request

#: Shorter texts, in characters, may well be equal by chance, or because there is only one possible answer.
_LONG = 40


def deviations(
    request: Request, choices: Sequence[ChoiceParser], *, reported: Mapping[str, Any], generated: int | None
) -> Iterator[str]:
    """Yields a note for each deviation that can be seen in the whole answer to a request.

    Args:
        request: the request.
        choices: the answer's choices, each at its end.
        reported: the `model` and `seed` that the endpoint sent, if it did.
        generated: the number of completion tokens, as the endpoint counts them.
    """
    if reported.get("model") and reported["model"] != request.model:
        yield f"model: the answer says it is {reported['model']}'s"
    if request.seed is not None and "seed" not in reported:
        yield "seed: sent, and the answer does not say whether it was used"
    elif request.seed is not None and reported["seed"] != request.seed:
        yield f"seed: the answer says it is of seed {reported['seed']}"
    for choice in choices:
        yield from _finish(request, choice)
        yield from _tool_calls(request, choice)
        yield from _reasoning(request, choice)
        yield from _logprobs(choice)
        if choice.tokens and not choice.lists_end and ended_by_token(choice.shown_finish, choice.text, request):
            yield NO_END_TOKEN
    texts = {choice.text for choice in choices}
    if len(choices) > 1 and len(texts) == 1 and len(choices[0].text) >= _LONG and request.temperature >= 1e-5:
        yield f"n: all {len(choices)} choices have the same text, as if nothing were sampled"
    listed = sum(len(choice.tokens) for choice in choices)
    # Most endpoints count end tokens and do not list them.
    if generated is not None and listed and listed + len(choices) < generated:
        yield f"logprobs: sent for {listed} of {generated} generated tokens"


def _finish(request: Request, choice: ChoiceParser) -> Iterator[str]:
    text = choice.text.rpartition("</think>")[2]
    if choice.finish is None:
        yield "finish_reason: none was sent, so the answer may be incomplete"
    elif choice.finish not in FINISH_REASONS:
        yield f"finish_reason: {choice.finish!r}, which is shown as 'stop'"
    if choice.refusal:
        yield f"refusal: {choice.refusal}"
    ends = [text.find(stop) + len(stop) for stop in request.stops if stop in text]
    if ends and min(ends) < len(text):
        yield "stop: ignored, the text continues after it"
    elif ends and not request.include_stop:
        yield "include_stop: ignored, the content ends with the stop"
    elif request.stops and not ends and choice.finish == "stop" and request.include_stop:
        yield "stop: its text may have been left out, the content does not end with it"
    if request.response_format and choice.finish == "stop" and not _is_json(request.response_format, text):
        yield "response_format: ignored, the content is not JSON"
    if request.token_limit is not None and len(choice.tokens) > request.token_limit:
        yield f"max_tokens: {len(choice.tokens)} tokens were sent, {request.token_limit} were asked for"


def _tool_calls(request: Request, parsed: ChoiceParser) -> Iterator[str]:
    choice, made = request.tool_choice, [call["name"] for call in parsed.calls]
    known = [tool["function"]["name"] for tool in request.tools or ()]
    wanted = choice["function"]["name"] if isinstance(choice, dict) else None
    strange = [name for name in made if name not in known]
    if strange:
        yield f"tools: calls {strange[0]!r}, which is none of them"
    elif made and choice == "none":
        yield f"tool_choice: ignored, {made[0]!r} is called"
    elif wanted and any(name != wanted for name in made):
        yield f"tool_choice: ignored, another function than {wanted!r} is called"
    elif (wanted or choice == "required") and not made and parsed.finish != "length":
        yield "tool_choice: ignored, nothing is called"
    if len(made) > 1 and not request.parallel_tool_calls:
        yield f"parallel_tool_calls: ignored, there are {len(made)} calls"


def _reasoning(request: Request, choice: ChoiceParser) -> Iterator[str]:
    if choice.reasoning and not request.separate_reasoning and choice.reasoning not in choice.text:
        yield "separate_reasoning: the reasoning is sent separately from the content"
    if request.separate_reasoning and "</think>" in choice.text:
        yield "separate_reasoning: ignored, the reasoning is in the content"


def _logprobs(choice: ChoiceParser) -> Iterator[str]:
    if not choice.tokens:
        if choice.text or choice.reasoning or choice.calls:
            yield "logprobs: none were sent"
        return
    if all(entry.get("bytes") is None and "token_id" not in entry for entry in choice.tokens_in()):
        yield "logprobs: sent without bytes"
        if "\ufffd" in "".join(str(entry.get("token", "")) for entry in choice.tokens_in("content")):
            return
    if any(choice.tokens_in("content")) and not choice.is_exact:
        yield "logprobs: their tokens do not join to the content"


def _is_json(form: Mapping[str, Any], text: str) -> bool:
    if form.get("type") not in ("json_object", "json_schema"):
        return True
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
