"""One conversation over HTTP: the body in, the answer out as it comes, and an eye on whether anybody still listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llmlab.errors import LLMLabError
from llmlab.serve import conversation as talk
from llmlab.serve import sse
from llmlab.serve.body import MAX_BYTES, WHOLE, check_headers
from llmlab.serve.conversation import ClientGoneError, Conversation, Reply
from llmlab.serve.gate import send_reply, start_of
from llmlab.serve.line import Line, Place
from llmlab.serve.logs import unforeseen
from llmlab.serve.refusals import BodyTimeoutError, BodyTooLargeError

#: Seconds of silence after which a stream says that it is still there.
SILENCE = 15.0

#: Seconds after which a client that takes nothing, or sends nothing of its body, counts as gone.
STALLED = 60.0

#: What is still taken in of a body that is too large, so that a client in the middle of sending comes to read why.
_DISCARDED = 64 * 2**20


class Exchange(Response):
    """Reads the body, runs the request on a thread, and sends what comes; one that is left behind ends its work.

    A response of the framework's, so that a path can return it; the sending is its own: the framework's streaming
    would iterate on a small pool of threads that all streams share, and would not watch over an answer that does not
    stream.

    Args:
        conversation: not yet started.
        line: where it has to find a place.
        threads: as many as the line has places.
        silence: seconds without a token after which a stream sends a comment.
        stalled: seconds after which a client that takes nothing, or sends nothing of its body, counts as gone.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        line: Line,
        threads: ThreadPoolExecutor,
        silence: float,
        stalled: float,
    ) -> None:
        super().__init__()
        self._talk = conversation
        self._line = line
        self._threads = threads
        self._silence = silence
        self._stalled = stalled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The exchange, as ASGI calls it."""

        async def patiently(message: Message) -> None:
            try:
                async with asyncio.timeout(self._stalled):
                    await send(message)
            except TimeoutError:
                raise ClientGoneError from None

        try:
            await self._exchange(scope, receive, patiently)
        except ClientGoneError:
            scope["facts"]["left"] = True

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        kind, encoding = (headers.get(name) for name in (b"content-type", b"content-encoding"))
        try:
            check_headers(content_type=_text(kind), content_encoding=_text(encoding))
            data = await _body(receive, announced=headers.get(b"content-length"), stalled=self._stalled)
            place = self._line.enter()
        except BodyTooLargeError as error:
            scope["facts"] |= {"error": error.code}
            await _refuse_and_drain(talk.refusal(error), receive, send)
            return
        except LLMLabError as error:
            scope["facts"] |= {"error": error.code or error.type, "param": error.param}
            await send_reply(talk.refusal(error), send)
            return
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._converse(data, place, send)
        finally:
            self._talk.leave()
            watch.cancel()
            self._line.leave(place)
            scope["facts"] |= self._talk.facts

    async def _converse(self, data: bytes, place: Place, send: Send) -> None:
        loop = asyncio.get_running_loop()
        try:
            request = await loop.run_in_executor(self._threads, self._talk.read, data)
            self._line.widen(place, answers=request.n)
            reply = await loop.run_in_executor(self._threads, self._talk.run, request)
        except ClientGoneError:
            raise
        except LLMLabError as error:
            self._talk.facts.setdefault("error", error.code or error.type)
            reply = talk.refusal(error)
        except Exception as error:
            reply = talk.refusal(unforeseen(error))
        if not reply.streams:
            await send_reply(reply, send)
            return
        await send(start_of(reply, length=None))
        while True:
            coming = loop.run_in_executor(self._threads, _next, reply.parts)
            while not (await asyncio.wait([coming], timeout=self._silence))[0]:
                await send(_part(sse.STILL_HERE))
            try:
                part = coming.result()
            except Exception as error:
                await send(_part(sse.event(unforeseen(error).to_dict()) + sse.DONE))
                break
            if part is None:
                break
            await send(_part(part))
        if self._talk.left:
            raise ClientGoneError
        await send({"type": "http.response.body", "body": b""})

    async def _watch(self, receive: Receive) -> None:
        """Once the body is read, the next thing that a client can do is to leave."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._talk.leave()


def _part(data: bytes) -> Message:
    """The message of a part of a body that is not the last."""
    return {"type": "http.response.body", "body": data, "more_body": True}


def _next(parts: Iterator[bytes]) -> bytes | None:
    return next(parts, None)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _body(receive: Receive, *, announced: bytes | None, stalled: float) -> bytes:
    """The whole body, which is never held beyond the limit.

    Raises:
        BodyTooLargeError: as soon as that is known. BodyTimeoutError: nothing came for so many seconds.
        ClientGoneError: the client left while sending.
    """
    if announced is not None and announced.isdigit() and (len(announced) > 15 or int(announced) > MAX_BYTES):
        raise BodyTooLargeError(f"the body may have {MAX_BYTES} bytes; this one has more", param=WHOLE)
    data = bytearray()
    while True:
        try:
            async with asyncio.timeout(stalled):
                message = await receive()
        except TimeoutError:
            said = f"nothing more of the body came for {stalled:g} s, after {len(data)} bytes"
            raise BodyTimeoutError(said, param=WHOLE) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data += message.get("body", b"")
        if len(data) > MAX_BYTES:
            raise BodyTooLargeError(f"the body may have {MAX_BYTES} bytes; this one has more", param=WHOLE)
        if not message.get("more_body"):
            return bytes(data)


async def _refuse_and_drain(reply: Reply, receive: Receive, send: Send) -> None:
    """Say so at once, then let the client finish: a connection that is cut while it sends loses the answer."""
    body = b"".join(reply.parts)
    await send(start_of(reply, length=len(body)))
    await send(_part(body))
    discarded = 0
    try:
        async with asyncio.timeout(STALLED):
            while discarded < _DISCARDED:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    except TimeoutError:
        pass  # whoever sends so slowly may lose it
    await send({"type": "http.response.body", "body": b""})
