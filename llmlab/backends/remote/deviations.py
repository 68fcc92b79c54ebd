"""What an endpoint is seen to do otherwise than it was asked: notes, a line each, the field first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmlab.backends.remote.parse import FINISH_REASONS, Answer
from llmlab.protocol.request import Request

#: Texts of fewer characters may well be the same by chance, or because there is but one answer.
_LONG = 40


def habits(request: Request, answers: Sequence[Answer], *, said: Mapping[str, Any], made: int | None) -> Iterator[str]:
    """What the answers to a request show.

    Args:
        request: what was asked.
        answers: whole ones.
        said: the endpoint's `model` and `seed`, if it says them.
        made: completion tokens as the endpoint counts them.
    """
    if said.get("model") and said["model"] != request.model:
        yield f"model: the answer says it is {said['model']}'s"
    if request.seed is not None and "seed" not in said:
        yield "seed: sent, and the answer does not say whether it counts"
    elif request.seed is not None and said["seed"] != request.seed:
        yield f"seed: the answer says it is of seed {said['seed']}"
    for answer in answers:
        yield from _ends(request, answer)
        yield from _calls(request, answer)
        yield from _reasoning(request, answer)
        yield from _figures(request, answer)
    texts = {answer.text for answer in answers}
    if len(answers) > 1 and len(texts) == 1 and len(answers[0].text) >= _LONG and request.temperature >= 1e-5:
        yield f"n: all {len(answers)} choices say the same, as if nothing were drawn"
    listed = sum(len(answer.entries) for answer in answers)
    # An end token is counted and not listed.
    if made is not None and listed and listed + len(answers) < made:
        yield f"logprobs: of {listed} tokens, where {made} are said to be generated"


def _ends(request: Request, answer: Answer) -> Iterator[str]:
    text = answer.text.rpartition("</think>")[2]
    if answer.finish not in (None, *FINISH_REASONS):
        yield f"finish_reason: {answer.finish!r}, which is shown as 'stop'"
    if answer.refusal:
        yield f"refusal: {answer.refusal}"
    ends = [text.find(stop) + len(stop) for stop in request.stops if stop in text]
    if ends and min(ends) < len(text):
        yield "stop: ignored, the text goes on behind it"
    elif ends and not request.include_stop:
        yield "include_stop: ignored, the content ends with the stop"
    elif request.stops and not ends and answer.finish == "stop" and request.include_stop:
        yield "stop: its text may have been left out, the content does not end with it"
    if request.response_format and answer.finish == "stop" and not _is_json(request.response_format, text):
        yield "response_format: ignored, the content is not JSON"
    if request.token_limit is not None and len(answer.entries) > request.token_limit:
        yield f"max_tokens: {len(answer.entries)} tokens were sent where {request.token_limit} were asked for"


def _calls(request: Request, answer: Answer) -> Iterator[str]:
    choice, made = request.tool_choice, [call["name"] for call in answer.calls]
    known = [tool["function"]["name"] for tool in request.tools or ()]
    wanted = choice["function"]["name"] if isinstance(choice, dict) else None
    strange = [name for name in made if name not in known]
    if strange:
        yield f"tools: calls {strange[0]!r}, which is none of them"
    elif made and choice == "none":
        yield f"tool_choice: ignored, {made[0]!r} is called"
    elif wanted and any(name != wanted for name in made):
        yield f"tool_choice: ignored, another function than {wanted!r} is called"
    elif (wanted or choice == "required") and not made and answer.finish != "length":
        yield "tool_choice: ignored, nothing is called"
    if len(made) > 1 and not request.parallel_tool_calls:
        yield f"parallel_tool_calls: ignored, there are {len(made)} calls"


def _reasoning(request: Request, answer: Answer) -> Iterator[str]:
    if answer.reasoning and not request.separate_reasoning and answer.reasoning not in answer.text:
        yield "separate_reasoning: the reasoning comes apart from the content"
    if request.separate_reasoning and "</think>" in answer.text:
        yield "separate_reasoning: ignored, the reasoning is in the content"


def _figures(request: Request, answer: Answer) -> Iterator[str]:
    if not answer.entries:
        if answer.text or answer.reasoning or answer.calls:
            yield "logprobs: none were sent"
        return
    if all(entry.get("bytes") is None and "token_id" not in entry for entry in answer.listed()):
        yield "logprobs: sent without bytes"
        if "\ufffd" in "".join(str(entry.get("token", "")) for entry in answer.listed("content")):
            return
    if any(answer.listed("content")) and not answer.joins:
        yield "logprobs: their tokens do not join to the content"


def _is_json(form: Mapping[str, Any], text: str) -> bool:
    if form.get("type") not in ("json_object", "json_schema"):
        return True
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
