"""Makes a lab: from a checkpoint that is loaded into this process, or from an endpoint elsewhere."""

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
    """Loads a model into this process, shows what it runs on, and returns a lab of it.

    Args:
        name: "demo" (the embedded model), a checkpoint folder, or the name of a Hugging Face hub repository.
        dtype: float32, bfloat16 or float16; by default that of the checkpoint, but float32 on a CPU.
        max_context: the most tokens of prompt and answer together; by default the model's own limit.
        slots: pins the batch width, so that a request gives the same tokens alone or beside others.
        mesh: a `jax.sharding.Mesh` of one axis, such as `jax.make_mesh((2,), ("model",))`, over whose devices the model
            is sharded; by default the first device holds all of it.
        chat_template: Jinja source or a file, used instead of the checkpoint's.
        revision: the revision of a hub repository.
        quiet: show no banner.

    Raises:
        ModelNotFoundError: there is no such model.
        CheckpointError: the checkpoint cannot be run; the message says why.
        RequestError: an argument is of the wrong type, or asks for more than the model or the memory allows.
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
    """Returns a lab over an endpoint elsewhere: any server that speaks the chat-completion API.

    Values that the endpoint does not return are NA in the frames; deviations from a request are listed in a result's
    `notes`. Methods that need a model's logits (`next_token`, `score`, `branch`, `order=`) raise an error that says so.

    Every request states its parameters explicitly, so that the endpoint's own defaults do not apply: a seed,
    temperature 1 and no truncation where nothing else was asked, and the logprobs that the frames are made of. A
    parameter that the endpoint refuses is left out from then on, and choices that it does not send are requested one by
    one. Where it returns logprobs without saying from which distribution, two more requests of one token find out,
    once.

    Args:
        url: the base URL of the API, such as "http://127.0.0.1:8000/v1".
        api_key: sent as the bearer token.
        model: the model's name there; not needed where it serves only one.
        concurrency: the most requests at a time, for example those of a sweep; others wait.
        retries: how often a request is repeated that failed for a temporary reason (a full queue, a lost connection),
            with growing pauses that respect Retry-After.
        timeout: the most seconds without a byte from the endpoint.
        quiet: show no banner.
        options: options of `openai.AsyncOpenAI`, such as `default_headers` and `default_query`.

    Raises:
        ModelNotFoundError: the endpoint serves several models or none, and `model` was not given.
        LLMLabError: the endpoint cannot be reached, or refuses the key.
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
