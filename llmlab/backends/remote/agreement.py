"""Whether several endpoints serve one model: what each of them says when it is looked at, and where two differ."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from llmlab.backends.remote.endpoint import Endpoint
from llmlab.backends.remote.errors import unreadable_answer
from llmlab.backends.remote.stream import RemoteStream
from llmlab.errors import LLMLabError, RequestError
from llmlab.protocol.completion import Completion, Tokens
from llmlab.protocol.request import ChatRequest

#: Starts a coroutine on the event loop of the endpoints.
Submit = Callable[[Coroutine[Any, Any, Any]], Future[Any]]

#: What each endpoint is asked.
_PROBE = ChatRequest.build("Tell me a short story.", temperature=0, max_tokens=16)
#: Seconds that are waited for an endpoint's answer to it.
LOOK_SECONDS = 60.0
#: Where the best two tokens are closer than this, in nats, the same model may choose another one on another device.
_TIE = 0.5
#: The mean difference of the same tokens' logprobs, in nats, from which it is another model. Other devices differ by
#: some hundredths, other quantizations by about a tenth.
_OTHER_MODEL = 0.5
#: From which on it is worth a warning.
_OTHER_NUMBERS = 0.1


class Facts(NamedTuple):
    """What an endpoint says about its model.

    Attributes:
        where: its address.
        serves: the model; the list of its models, if that lacks the model that was named.
        owner: who serves it, such as "vllm"; None if it does not say.
        context: the most tokens of a prompt and its answer together; None if it does not say.
        answer: its answer to a greedy request; None if it refuses a field of that request.
    """

    where: str
    serves: str
    owner: str | None
    context: int | None
    answer: Completion | None


class Look(threading.Thread):
    """Looks at an endpoint, on a thread of its own: an endpoint that hangs must not hold up the others.

    Args:
        endpoint: the endpoint; its model is found where none was named.
        submit: starts a coroutine on its event loop.
        then: is called on the thread, with what was found or with the error.
    """

    def __init__(self, endpoint: Endpoint, submit: Submit, then: Callable[[Facts | LLMLabError], None]) -> None:
        super().__init__(name="llmlab-look", daemon=True)
        self._endpoint = endpoint
        self._submit = submit
        self._then = then
        self.start()

    def run(self) -> None:
        """Look."""
        found: Facts | LLMLabError
        try:
            found = self._look()
        except LLMLabError as error:
            found = error
        except Exception as error:  # the lab was closed, or the endpoint answers what nobody has seen before
            found = unreadable_answer(self._endpoint.where, error)
        self._then(found)

    def _look(self) -> Facts:
        endpoint, answer = self._endpoint, None
        self._submit(endpoint.find_model()).result()
        with contextlib.suppress(RequestError):  # what it refuses here was not asked for by anybody
            answer = RemoteStream(endpoint, _PROBE, seed=0, submit=self._submit, owner=None).result()
        unlisted = endpoint.listed and endpoint.model not in endpoint.listed
        serves = ", ".join(endpoint.listed) if unlisted else endpoint.model
        return Facts(endpoint.where, serves, endpoint.owner, endpoint.context, answer)


def agreed(found: Sequence[Facts]) -> Facts:
    """Returns the facts that most endpoints agree with.

    Raises:
        RequestError: one of them serves another model than most; the message names each such endpoint.
    """
    usual = max(found, key=lambda one: sum(not difference(one, other) for other in found))
    wrong = [text for other in found if (text := difference(usual, other))]
    if wrong:
        raise RequestError(
            f"the endpoints of a lab serve one model, and {len(wrong)} of {len(found)} here differ: "
            f"{'; '.join(wrong)}. Connect to the others alone, or name the model that all of them have (model=)",
            param="url",
        )
    return usual


def difference(usual: Facts, other: Facts) -> str:
    """Returns what shows that `other` serves another model than `usual`; "" if nothing does."""
    if usual.serves != other.serves:
        return _differ(other, f"serves {other.serves!r}", usual, repr(usual.serves))
    if usual.context is not None and other.context is not None and usual.context != other.context:
        return _differ(other, f"has a context of {other.context:,} tokens", usual, f"{usual.context:,}")
    if usual.answer is None or other.answer is None:
        return ""
    if _part(usual.answer, other.answer):
        texts = [_said(each.answer) for each in (other, usual) if each.answer]
        return _differ(other, f"answers {texts[0]} to a greedy request for {other.serves!r}", usual, texts[1])
    apart = _apart(usual.answer, other.answer)
    if apart > _OTHER_MODEL:
        return f"{other.where} gives the same tokens other logprobs than {usual.where}, by {apart:.2f} nats on average"
    return ""


def doubts(found: Sequence[Facts]) -> list[str]:
    """Returns what may make an answer depend on the endpoint that gives it, although all serve one model."""
    texts = []
    owners = dict.fromkeys(each.owner for each in found if each.owner)
    answers = [(each, each.answer) for each in found if each.answer is not None]
    prints = list(dict.fromkeys(answer.system_fingerprint for _, answer in answers if answer.system_fingerprint))
    if len(owners) > 1:
        texts.append(f"they are of {len(owners)} kinds ({', '.join(owners)}): a seed gives each kind other tokens")
    elif len(prints) > 1:
        texts.append(f"their system_fingerprints differ ({', '.join(prints)}): a seed may give other tokens at each")
    for other, answer in answers[1:]:
        usual, first = answers[0]
        apart = _apart(first, answer)
        if apart > _OTHER_NUMBERS:
            texts.append(f"the logprobs of {other.where} differ from those of {usual.where} by {apart:.2f} nats")
        texts += [f"{other.where}, unlike {usual.where}: {note}" for note in answer.notes if note not in first.notes]
        texts += [f"{usual.where}, unlike {other.where}: {note}" for note in first.notes if note not in answer.notes]
    return list(dict.fromkeys(texts))


def _differ(other: Facts, does: str, usual: Facts, instead: str) -> str:
    return f"{other.where} {does}, {usual.where} {instead}"


def _said(answer: Completion) -> str:
    choice = answer.choices[0]
    return repr((choice.reasoning or "") + choice.text)


def _part(one: Completion, other: Completion) -> bool:
    """Whether two greedy answers part where neither of them could have chosen the other's token."""
    mine, yours = one.choices[0].tokens, other.choices[0].tokens
    both = min(len(mine), len(yours))
    if not both:
        return False  # without tokens, a tie looks like another model
    at = next((t for t in range(both) if mine.bytes[t] != yours.bytes[t]), None)
    if at is None:
        return False  # also where one of them lists its end token, and the other does not
    gaps = np.array([mine.margin[at], yours.margin[at]])
    return bool(np.all(gaps >= _TIE))  # a gap that is not known is NaN


def _apart(one: Completion, other: Completion) -> float:
    """The mean difference of the logprobs of the tokens that two answers begin with alike, in nats; 0 if unknown."""
    mine, yours = one.choices[0].tokens, other.choices[0].tokens
    differences = np.abs([a - b for a, b in _shared(mine, yours)])
    known = differences[np.isfinite(differences)]
    return float(known.mean()) if len(known) else 0.0


def _shared(mine: Tokens, yours: Tokens) -> Iterator[tuple[float, float]]:
    pairs: Iterable[tuple[Any, Any, Any, Any]] = zip(
        mine.bytes, yours.bytes, mine.logprob.tolist(), yours.logprob.tolist(), strict=False
    )
    for one, other, a, b in pairs:
        if one != other:
            return
        yield a, b
