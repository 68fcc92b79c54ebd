"""Finds a model by its name: the embedded model, a folder, a GGUF file, or a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmlab.checkpoints.gguf.header import split_parts
from llmlab.embedded import demo_folder
from llmlab.errors import LLMLabError, ModelNotFoundError, RequestError, cut

#: Weights as safetensors, configuration and tokenizer. Pickles are not downloaded.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
#: The same weights once more, for other programs.
_IGNORED = ["*/*.safetensors", "consolidated*.safetensors"]
_MOST_NAMED = 8

_LOG_IN = "log in (hf auth login), set HF_TOKEN, or give token='hf_...'"


def resolve(
    name: str | Path, *, revision: str | None = None, token: str | None = None, only: Sequence[str] = _PATTERNS
) -> tuple[str, Path]:
    """The name of a model, and its folder or GGUF file; a hub repository is downloaded into the hub's own cache.

    What is in the cache already is not downloaded again, and where the hub cannot be reached, or HF_HUB_OFFLINE is set,
    the cache is used as it is.

    Args:
        name: "demo", a folder, a file, the name of a repository, or of a GGUF file in one ("owner/name/file.gguf").
        revision: a branch, tag or commit of the repository; by default its main branch.
        token: an access token of the hub; by default HF_TOKEN or the one of `hf auth login`.
        only: patterns of the repository's files that are wanted.

    Raises:
        ModelNotFoundError: there is no such folder, and the hub does not give such a repository. The message says why,
            and what to do.
        RequestError: a revision or a token of something that is no hub repository, or one that the hub refuses.
    """
    for field, value in (("revision", revision), ("token", token)):
        if value is not None and (not isinstance(value, str) or not value):
            raise RequestError(f"{field} must be a text that is not empty", param=field)
    if name == "demo":
        _refuse("the embedded model", revision=revision, token=token)
        return "demo", demo_folder()
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse(f"the folder {folder}", revision=revision, token=token)
        return folder.resolve().name, folder
    if folder.is_file():
        _refuse(f"the file {folder}", revision=revision, token=token)
        return folder.resolve().stem, folder
    text, is_gguf = str(name), folder.suffix == ".gguf"
    parts = text.split("/")
    if folder.is_absolute() or text.startswith((".", "~")) or (len(parts) < 3 if is_gguf else len(parts) > 2):
        raise ModelNotFoundError(f"there is no {'file' if is_gguf else 'folder'} {text}", param="model")
    if is_gguf:
        return folder.stem, _fetch_gguf("/".join(parts[:2]), "/".join(parts[2:]), revision=revision, token=token)
    found = _fetch(text, revision=revision, token=token, only=only)
    if only is _PATTERNS and not any(found.glob("*.safetensors")):
        _name_one(text, revision=revision, token=token)
    return text, found


def _refuse(what: str, **given: str | None) -> None:
    for field, value in given.items():
        if value is not None:
            shown = "..." if field == "token" else repr(value)
            raise RequestError(
                f"{field}={shown} is for repositories of the hub, and {what} is none; leave it out", param=field
            )


def _fetch(repo: str, *, revision: str | None, token: str | None, only: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, token=token, allow_patterns=list(only), ignore_patterns=_IGNORED
            )
        )
    except HFValidationError:
        raise ModelNotFoundError(
            f"{repo!r} is neither a folder nor a hub repository's name; use 'demo', a folder, or 'owner/name'",
            param="model",
        ) from None
    except Exception as error:  # besides those of the hub, httpx's own, whose package has had several names
        raise _explained(error, repo, revision=revision) from None


def _fetch_gguf(repo: str, file: str, *, revision: str | None, token: str | None) -> Path:
    """Downloads a GGUF file of a repository, or all parts of the model that it is a part of."""
    wanted = split_parts(Path(file))
    folder = _fetch(repo, revision=revision, token=token, only=[path.as_posix() for path in wanted])
    if not (folder / file).is_file():
        there = _gguf_files(repo, revision=revision, token=token)
        raise ModelNotFoundError(
            f"there is no file {repo}/{file} here, and the hub's repository {repo!r} has no {file}; "
            f"{f'its GGUF files are {_listed(there)}' if there else 'it has no GGUF files'}",
            param="model",
        )
    return folder / file


def _name_one(repo: str, *, revision: str | None, token: str | None) -> None:
    """Raises ModelNotFoundError if a repository holds GGUF files, of which one has to be named."""
    if there := _gguf_files(repo, revision=revision, token=token):
        raise ModelNotFoundError(
            f"the hub's repository {repo!r} holds GGUF files: name one of them, as {repo + '/' + there[0]!r}; there "
            f"are {_listed(there)}",
            param="model",
        )


def _gguf_files(repo: str, *, revision: str | None, token: str | None) -> list[str]:
    """The GGUF files of a repository; [] where the hub does not say."""
    import huggingface_hub

    try:
        names = huggingface_hub.list_repo_files(repo, revision=revision, token=token)
    except Exception:  # what is wrong with the hub or the repository has been said before, or is said where it is read
        return []
    return sorted(name for name in names if name.endswith(".gguf"))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _explained(error: Exception, repo: str, *, revision: str | None) -> LLMLabError:
    """What the hub's error means, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    page = f"{constants.ENDPOINT}/{repo}"
    absent = isinstance(error, hub.LocalEntryNotFoundError)  # the hub is not reached, and the cache has not all of it
    if absent and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError):
        what = (
            f"the hub's repository {repo!r} is gated: accept its conditions at {page} with your account, then {_LOG_IN}"
        )
    elif isinstance(error, hub.RevisionNotFoundError):
        return RequestError(
            f"revision={revision!r}: {repo!r} has no such branch, tag or commit; {page}/tree/main lists them, and "
            "without a revision the main branch is used",
            param="revision",
        )
    elif isinstance(error, hub.RepositoryNotFoundError):
        what = (
            f"{repo!r} is not a folder here, and the hub has no repository {page} that you may read: check the name, "
            f"or, if it is private, {_LOG_IN}"
        )
    elif status == 401:
        return RequestError(
            f"the hub refuses the access token: make a new one at {constants.ENDPOINT}/settings/tokens, then {_LOG_IN}",
            param="token",
        )
    elif absent and constants.HF_HUB_OFFLINE:
        part = "" if revision is None else f" at revision {revision!r}"
        what = (
            f"{repo!r} is not a folder here, HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} does not hold all of "
            f"it{part}: unset HF_HUB_OFFLINE to download it, or give a folder"
        )
    elif status is not None:
        what = f"the hub did not give {repo!r}: it answered {status} ({_first_line(error)}); try again later"
    elif absent or _is_connection(error):
        what = (
            f"{repo!r} is not a folder here, and the hub ({constants.ENDPOINT}) does not answer "
            f"({_first_line(error)}): check the network, or give a folder; what was downloaded before needs no network"
        )
    elif isinstance(error, OSError):
        at = constants.HF_HUB_CACHE
        what = f"{repo!r} cannot be kept in {at}: {_first_line(error)}; HF_HOME sets another place"
    else:
        what = f"the hub did not give {repo!r}: {_first_line(error)}"
    return ModelNotFoundError(what, param="model")


def _is_connection(error: Exception) -> bool:
    """Whether an error is one of reaching a server, by its name: the HTTP client of the hub's package has changed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "ConnectError", "TimeoutException", "Timeout"})


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return cut(lines[0], most=200) if lines else type(error).__name__
