"""Where a lab comes from: a checkpoint that is read into this process, or an endpoint elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmlab.display import banner
from llmlab.display.progress import progress_bar
from llmlab.errors import ModelNotFoundError, RequestError, short
from llmlab.lab.lab import Lab

__all__ = ["connect", "load"]


def load(
    name: str | Path,
    *,
    dtype: str | None = None,
    max_context: int | None = None,
    slots: int | None = None,
    mesh: Any = None,
    chat_template: str | Path | None = None,
    revision: str | None = None,
    quiet: bool = False,
) -> Lab:
    """Load a model into this process, and show what it runs on.

    Args:
        name: "demo" (the embedded model), a checkpoint folder, or a hub repository.
        dtype: float32, bfloat16 or float16; by default what the checkpoint is stored as, and float32 on a CPU.
        max_context: positions (prompt and answer) that a request may take; by default the model's own.
        slots: pin the batch width: the same request then gives the same tokens alone or beside anything.
        mesh: a `jax.sharding.Mesh` of one axis, `jax.make_mesh((2,), ("model",))` for example, over whose devices the
            model is spread; by default the first device has all of it.
        chat_template: Jinja source or a file, in place of the checkpoint's.
        revision: of a hub repository.
        quiet: no banner.

    Raises:
        ModelNotFoundError: there is no such model.
        CheckpointError: it is not a checkpoint that can be run; the message says why.
        RequestError: an argument that makes no sense, or asks for more than the model or the memory has.
    """
    from llmlab.backends.local.backend import LocalBackend

    if not isinstance(name, str | os.PathLike):
        raise RequestError(
            f"name must be demo, a checkpoint folder or a hub repository, got {short(name)}", param="name"
        )
    if Path(name).suffix == ".parquet" and Path(name).expanduser().is_file():
        raise ModelNotFoundError(
            f"{name} is no model: llmlab.Result.load reads a result that was saved, llmlab.Sweep.load a sweep",
            param="model",
        )
    with progress_bar(total=None, unit="B", description="loading", scaled=True) as bar:

        def tell(done: int, everything: int) -> None:
            bar.total = everything
            bar.update(done - bar.n)

        backend = LocalBackend.load(
            name,
            dtype=dtype,
            max_context=max_context,
            slots=slots,
            mesh=mesh,
            chat_template=chat_template,
            revision=revision,
            progress=tell,
        )
    lab = Lab(backend)
    if not quiet:
        banner.show(lab)
    return lab


def connect(
    url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    concurrency: int = 8,
    retries: int = 4,
    timeout: float = 600.0,
    quiet: bool = False,
    **options: Any,
) -> Lab:
    """The same lab over somebody else's engine: any endpoint that speaks the chat-completion API.

    What an endpoint does not say is NA in the frames, and what it was seen to do otherwise than asked is in a result's
    `notes`. What needs a model's logits (`next_token`, `score`, `branch`, `order=`) is an error that says so.

    A request says what the endpoint might decide by itself: a seed, temperature 1 and the truncations off where nobody
    asked for others, the logprobs that the frames are made of. What the endpoint refuses of that is left out from then
    on. Choices that it does not send are asked for one by one. Where logprobs come without saying which law they are
    of, two more requests of one token find out, once.

    Args:
        url: the API's base, such as "http://127.0.0.1:8000/v1".
        api_key: sent as the bearer token.
        model: the model's name there; not needed where there is only one.
        concurrency: requests under way at once, of a sweep for example; more wait their turn.
        retries: of a request that fails for a reason that may pass (a full queue, a lost connection), with pauses that
            grow and follow Retry-After.
        timeout: seconds without a byte from the endpoint.
        quiet: no banner.
        options: of `openai.AsyncOpenAI`, such as `default_headers` and `default_query`.

    Raises:
        ModelNotFoundError: the endpoint has several models, or none, and none was named.
        LLMLabError: it cannot be reached, or refuses the key.
    """
    from llmlab.backends.remote.backend import RemoteBackend

    lab = Lab(
        RemoteBackend.connect(
            url, api_key=api_key, model=model, concurrency=concurrency, retries=retries, timeout=timeout, **options
        )
    )
    if not quiet:
        banner.show(lab)
    return lab
