"""One request with a body over HTTP: reads the body, sends the answer, notices a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llmlab.errors import LLMLabError
from llmlab.serve import sse
from llmlab.serve.admission import Admission, Place
from llmlab.serve.body import MAX_BYTES, WHOLE, check_headers
from llmlab.serve.errors import BodyTimeoutError, BodyTooLargeError
from llmlab.serve.handler import ClientGoneError, Handler, Reply, refusal
from llmlab.serve.logs import unforeseen
from llmlab.serve.middleware import send_reply, start_of

#: Seconds without a token after which a stream sends a comment, so that proxies keep the connection.
SILENCE = 15.0

#: Seconds after which a client that does not read its answer, or does not send its body, counts as gone.
STALLED = 60.0

#: Bytes of a body that is too large that are still read, so that a client that is sending gets to read the refusal.
_DISCARDED = 64 * 2**20


class Exchange(Response):
    """Reads the body, runs the request on a thread and sends the answer; stops the work when the client disconnects.

    It is a Starlette response, so that a path can return it, but it sends the parts itself: Starlette's streaming
    would iterate on a small thread pool that all streams share, and would not notice a disconnect before an answer
    that does not stream.

    Args:
        handler: a handler that has not been started.
        admission: where the request has to find a place.
        threads: a pool of as many threads as `admission` has places.
        silence: seconds without a token after which a stream sends a comment.
        stalled: seconds after which a client that does not read, or does not send its body, counts as gone.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        admission: Admission,
        threads: ThreadPoolExecutor,
        silence: float,
        stalled: float,
    ) -> None:
        super().__init__()
        self._handler = handler
        self._admission = admission
        self._threads = threads
        self._silence = silence
        self._stalled = stalled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the exchange, as ASGI calls it."""

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
            place = self._admission.enter()
        except BodyTooLargeError as error:
            scope["facts"] |= {"error": error.code}
            await _refuse_and_drain(refusal(error), receive, send)
            return
        except LLMLabError as error:
            scope["facts"] |= {"error": error.code or error.type, "param": error.param}
            await send_reply(refusal(error), send)
            return
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._respond(data, place, send)
        finally:
            self._handler.leave()
            watch.cancel()
            self._admission.leave(place)
            scope["facts"] |= self._handler.facts

    async def _respond(self, data: bytes, place: Place, send: Send) -> None:
        loop = asyncio.get_running_loop()
        try:
            request = await loop.run_in_executor(self._threads, self._handler.read, data)
            self._admission.widen(place, answers=request.n)
            reply = await loop.run_in_executor(self._threads, self._handler.run, request)
        except ClientGoneError:
            raise
        except LLMLabError as error:
            self._handler.facts.setdefault("error", error.code or error.type)
            reply = refusal(error)
        except Exception as error:
            reply = refusal(unforeseen(error))
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
                if self._handler.left:  # a stream that another thread closes may raise anything
                    raise ClientGoneError from None
                await send(_part(sse.event(unforeseen(error).to_dict()) + sse.DONE))
                break
            if part is None:
                break
            await send(_part(part))
        if self._handler.left:
            raise ClientGoneError
        await send({"type": "http.response.body", "body": b""})

    async def _watch(self, receive: Receive) -> None:
        """Waits for the disconnect, the only message that can follow a body."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._handler.leave()


def _part(data: bytes) -> Message:
    """Returns the ASGI message of a part of a body that is not the last part."""
    return {"type": "http.response.body", "body": data, "more_body": True}


def _next(parts: Iterator[bytes]) -> bytes | None:
    return next(parts, None)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


async def _body(receive: Receive, *, announced: bytes | None, stalled: float) -> bytes:
    """Returns the whole body; never holds more than the limit.

    Raises:
        BodyTooLargeError: raised as soon as the size is known.
        BodyTimeoutError: nothing arrived for `stalled` seconds.
        ClientGoneError: the client disconnected while sending.
    """
    if announced is not None and announced.isdigit() and (len(announced) > 15 or int(announced) > MAX_BYTES):
        raise BodyTooLargeError(f"the body may have {MAX_BYTES} bytes, and this one has more", param=WHOLE)
    data = bytearray()
    while True:
        try:
            async with asyncio.timeout(stalled):
                message = await receive()
        except TimeoutError:
            said = f"the body stopped after {len(data)} bytes: nothing arrived for {stalled:g} s"
            raise BodyTimeoutError(said, param=WHOLE) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data += message.get("body", b"")
        if len(data) > MAX_BYTES:
            raise BodyTooLargeError(f"the body may have {MAX_BYTES} bytes, and this one has more", param=WHOLE)
        if not message.get("more_body"):
            return bytes(data)


async def _refuse_and_drain(reply: Reply, receive: Receive, send: Send) -> None:
    """Sends the refusal at once, then reads on: a connection that is closed while the client sends loses the answer."""
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
        pass  # a client that sends so slowly may lose the answer
    await send({"type": "http.response.body", "body": b""})
