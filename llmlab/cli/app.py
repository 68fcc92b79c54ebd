"""The command line. A mistake of the user is reported in one line on stderr, with exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from llmlab.cli import audit as auditing
from llmlab.cli.sampling import define_named, sampling_options
from llmlab.errors import CheckpointError, LLMLabError

if TYPE_CHECKING:
    from llmlab.lab.lab import Lab


class _Commands(TyperGroup):
    """Reports errors of the package in one line, as typer does with wrong options."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LLMLabError as error:
            # A folder that is no checkpoint is a mistake of the user here, though a server's error over HTTP.
            _fail(error.message, code=2 if error.status < 500 or isinstance(error, CheckpointError) else 1)
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), code=2)


def _fail(message: str, *, code: int) -> None:
    typer.echo(f"llmlab: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    name="llmlab",
    help="A chat-completion engine in JAX, and a laboratory that shows what its sampler did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option(help="demo, a checkpoint folder, or a Hugging Face repository.")]
Attention = Annotated[str, typer.Option(help="auto, plain, or kernel (CUDA GPUs and TPUs).")]
Seed = Annotated[int, typer.Option(help="Random seed; the same seed gives the same answers.")]


def _version(wanted: bool) -> bool:
    if wanted:
        import llmlab

        typer.echo(f"llmlab {llmlab.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the plots and the page of tokens.")] = Path("llmlab-demo"),
    seed: Seed = 7,
    model: Model = "demo",
) -> None:
    """Run a chat request, and show what the sampler did: as tables, as plots, and as a page of coloured tokens."""
    from rich.console import Console

    from llmlab.cli import demo as show
    from llmlab.cli.tables import answers_table, logprobs_table, speed

    out.mkdir(parents=True, exist_ok=True)
    lab = _load(model, quiet=False)
    done = show.run(lab, seed=seed)
    console = Console()
    console.print(f"\n[bold]{show.STORY}[/]  temperature 0.8, top_p 0.95, seed {seed}")
    console.print(done.story.text, markup=False, highlight=False)
    console.print(speed(done), style="dim", highlight=False)
    console.print(logprobs_table(done.story, rows=12))
    console.print(answers_table(done))
    picture = show.picture(done, out / "demo.png")
    page = out / "demo.html"
    done.story.to_html(page)
    lab.close()
    # rich would break a long path into several lines.
    typer.echo(f"the plots:  {picture}\nthe tokens: {page}")


@app.command()
@sampling_options
def chat(
    message: Annotated[str, typer.Argument(help="The message of the user.")],
    model: Model = "demo",
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    n: Annotated[int | None, typer.Option(help="The number of answers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; the same seed gives the same answers.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of an answer; by default what fits the context.")
    ] = None,
    thinking: Annotated[bool | None, typer.Option(help="Switch the model's reasoning on or off.")] = None,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Also print a table of the tokens and their log-probabilities.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the response of the API, as JSON.")] = False,
    **sampling: Any,
) -> None:
    """Send one message, and print the answer while it is generated."""
    messages = [{"role": "user", "content": message}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    fields: dict[str, Any] = {
        **sampling,
        "n": n,
        "seed": seed,
        "max_tokens": max_tokens,
        "enable_thinking": thinking,
        "logprobs": logprobs or None,
    }
    from llmlab.display.progress import Wait
    from llmlab.protocol.request import ChatRequest
    from llmlab.results.result import Result

    request = ChatRequest.build(messages, **fields)  # checked before the model is loaded, which takes time
    lab = _load(model)
    if as_json:
        typer.echo(json.dumps(lab.chat(request).completion.model_dump(mode="json"), ensure_ascii=False, indent=2))
    elif request.n > 1:
        typer.echo(repr(lab.chat(request)))
    else:
        stream, waited = lab.backend.stream(request), Wait()
        stream.on_wait(waited.tell)
        try:
            for delta in stream:
                waited.over()
                typer.echo(delta.text, nl=False)
                sys.stdout.flush()
        finally:
            waited.over()
        typer.echo()
        if logprobs:
            from rich.console import Console

            from llmlab.cli.tables import logprobs_table

            Console().print(logprobs_table(Result(stream.result(), lab), rows=None))
    lab.close()


@app.command()
def serve(
    model: Model = "demo",
    host: Annotated[str, typer.Option(help="The address to listen on; any except loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 picks a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLMLAB_API_KEY", help="The key that each request must send as 'Bearer KEY'.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Without a key: a name besides localhost that requests may be sent to.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page's origin, such as https://lab.example, whose scripts may read the answers."),
    ] = None,
    slots: Annotated[
        int, typer.Option(min=1, help="The number of answers generated at once; it does not change them.")
    ] = 8,
    max_context: Annotated[
        int | None, typer.Option(min=1, help="The most tokens of a prompt and its answer together.")
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=0, help="The most answers that wait; further requests get status 429.")
    ] = 128,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, int8 or auto.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A file with a Jinja template, in place of the model's own.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER: a LoRA adapter beside the model, for requests to model NAME.")
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(help="MODULE:NAME: a stage of the sampler made by define_stage, whose fields requests may set."),
    ] = None,
    attention: Attention = "auto",
    draft: Annotated[
        int | None, typer.Option(min=0, max=16, help="The number of tokens that are guessed from what was said before.")
    ] = None,
    warmup: Annotated[bool, typer.Option(help="Compile all programs while no request is running.")] = True,
    mesh: Annotated[
        str | None, typer.Option(help="'auto': spread the model over all devices, also those of other processes.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="On several hosts, where process 0 waits for the others: HOST:PORT, or 'auto' under Slurm, Open MPI, "
            "Kubernetes and on TPU pods. Each host runs the same command; process 0 listens for requests."
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="With --coordinator: the number of processes.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="With --coordinator: which of them this one is.")] = None,
) -> None:
    """Serve the chat-completion API over HTTP, until Ctrl-C or SIGTERM."""
    try:
        from llmlab.serve import logs, server
        from llmlab.serve.hosts import AllowedHosts
        from llmlab.serve.origins import AllowedOrigins
    except ModuleNotFoundError as missing:
        _fail(f"{missing.name} is not installed: pip install 'llmlab[serve]'", code=2)
    import llmlab
    from llmlab.cli import processes as joining

    # Before the model is loaded, so that a wrong name or a port that is in use is reported at once.
    AllowedHosts(allow_host or ())
    AllowedOrigins(allow_origin or (), keyed=api_key is not None)
    adapters = _adapters(adapter or ())
    define_named(stages or ())
    joining.check(mesh, coordinator, processes=processes, process=process)
    sock = server.bind(host, port, api_key=api_key) if not process else None
    if coordinator is not None:
        joining.join(coordinator, processes=processes, process=process)
        mesh = mesh or joining.AUTO
    # In every process except 0 this does not return: it ends with process 0.
    lab = llmlab.load(
        model,
        dtype=dtype,
        max_context=max_context,
        slots=slots,
        mesh=mesh,
        chat_template=chat_template,
        adapters=adapters or None,
        attention=attention,
        draft=draft,
        quiet=True,
    )
    assert sock is not None
    joining.stop_where_one_is_lost(lab.backend)
    if warmup:
        lab.warmup(wait=False)
    url = server.listen(sock)  # before the address is printed, so that clients can connect
    key = " -H 'Authorization: Bearer '$LLMLAB_API_KEY" if api_key else ""
    typer.echo(
        f"{lab!r}\n"
        f"  API     {url}/v1   ({slots} answers at once, {max_queue} more can wait)\n"
        f"  docs    {url}/docs\n"
        f"  key     {'every request needs it' if api_key else 'none: only this machine can connect'}\n"
        f"  try     curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' \\\n"
        """            -d '{"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 60}'\n"""
        "  stop    Ctrl-C, or SIGTERM: running requests are finished first\n"
        "  log     below, one JSON line per request, without its texts"
    )
    sys.stdout.flush()
    logs.start_logging()
    server.serve(
        lab.backend,
        sock,
        api_key=api_key,
        allow_hosts=allow_host or (),
        allow_origins=allow_origin or (),
        max_queue=max_queue,
    )
    lab.close()
    joining.check_that_all_are_there(lab.backend)


@app.command()
def bench(
    model: Annotated[
        str, typer.Option(help="demo, a checkpoint folder, a Hugging Face repository, or shape:NAME (random weights).")
    ] = "demo",
    rows: Annotated[str, typer.Option(help="Batch sizes to measure, separated by commas.")] = "1,8,32,128",
    contexts: Annotated[str, typer.Option(help="Lengths of prompts, separated by commas.")] = "128,1024,8192",
    prompt: Annotated[int, typer.Option(min=1, help="The prompt's tokens where batches are measured.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, help="The number of generated tokens per row.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="The number of runs; the median counts.")] = 3,
    dtype: Annotated[str | None, typer.Option(help="As in llmlab serve.")] = None,
    attention: Attention = "auto",
    parts: Annotated[str | None, typer.Option(help="What to measure, separated by commas; by default all.")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Also run the same checkpoint in other programs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what this device can do, and what share of it loading, decoding, sampling and a notebook's work reach."""
    from llmlab.cli.bench import parts as measuring
    from llmlab.cli.bench import report
    from llmlab.cli.bench.subject import Options, check, counts

    chosen = tuple(parts.split(",")) if parts else tuple(measuring.PARTS)
    if unknown := [name for name in chosen if name not in (*measuring.PARTS, *measuring.WITH_PEERS)]:
        _fail(f"--parts: there is no {unknown[0]!r}; there are {', '.join(measuring.PARTS)}", code=2)
    check(model, dtype=dtype, attention=attention)
    options = Options(
        model=model,
        dtype=dtype,
        attention=attention,
        rows=counts("--rows", rows),
        contexts=counts("--contexts", contexts),
        prompt=prompt,
        tokens=tokens,
        repeats=repeats,
    )
    found = []
    for figure in measuring.run(options, parts=(*chosen, *(measuring.WITH_PEERS if peers else ()))):
        found.append(figure)
        if not as_json:
            typer.echo(report.line(figure))
    if as_json:
        typer.echo(report.to_json(options, found))


def _adapters(given: Iterable[str]) -> dict[str, str]:
    """The adapters of --adapter NAME=FOLDER, by name; a folder may hold a =."""
    found: dict[str, str] = {}
    for one in given:
        name, _, folder = one.partition("=")
        if not name or not folder:
            _fail(f"--adapter must be NAME=FOLDER, got {one!r}", code=2)
        if name in found:
            _fail(f"--adapter names {name!r} twice: {found[name]} and {folder}", code=2)
        found[name] = folder
    return found


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a config.json, or a Hugging Face repository.")],
    devices: Annotated[
        str | None, typer.Option(help="Such as 8xH100-80GB, v5e-8, A100-80GB (as many as it takes) or 4x48GB.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of prompt and answer that each row needs.")] = None,
    rows: Annotated[int, typer.Option(help="Rows at a time.")] = 1,
    revision: Annotated[str | None, typer.Option(help="The revision of a Hugging Face repository.")] = None,
) -> None:
    """Say what a model takes of which devices, from its config.json alone."""
    from rich.console import Console

    from llmlab.cli import plan as planning
    from llmlab.models.families import read_config
    from llmlab.models.plan import parse_devices

    asked = parse_devices(devices) if devices is not None else None
    raw = planning.config_of(model, revision=revision)
    config = read_config(raw)
    planning.checked(config, context=context, rows=rows)
    for line in planning.summary(config, raw):
        typer.echo(line)
    Console(width=140).print(planning.table(config, devices=asked, context=context, rows=rows))


@app.command()
def devices() -> None:
    """List the devices that JAX can use."""
    import jax

    from llmlab.backends.local.devices import device_facts

    found = device_facts()
    typer.echo(f"jax {jax.__version__} on {found['platform']}")
    for each in jax.devices():
        typer.echo(f"  {each.id}: {each.device_kind}")
    if found["memory_bytes"] is not None:
        typer.echo(f"free memory: {found['memory_bytes'] / 1e9:.1f} GB")
    if found["warning"]:
        typer.echo(f"*** {found['warning']} ***", err=True)


app.command()(auditing.audit)


def _load(model: str, *, dtype: str | None = None, quiet: bool = True) -> Lab:
    import llmlab

    return llmlab.load(model, dtype=dtype, quiet=quiet)
