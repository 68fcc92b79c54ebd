"""Who may import whom: the rules that keep each room of the package understandable by itself.

    cli -> {serve, lab, bench} -> backends -> {engine, checkpoints} -> {sampling, models, grammar, text} -> request

A room imports rooms below its own, never beside or above it; an import for the type checker alone counts too.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmlab"

FLOORS = [
    {"errors"},
    {"fields"},
    {"shapes", "exports"},
    {"request"},
    {"sampling", "models", "grammar", "text"},
    {"engine", "checkpoints"},
    {"backends"},
    {"serve", "lab", "bench"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: Public test doubles: they build checkpoints, and nothing of the package may lean on them.
FLOOR["testing"] = FLOOR["backends"]
#: One step sideways that is allowed, and no other.
SIDEWAYS = {("lab", "serve")}

#: Where each of these may be imported; a name that is not here may be imported anywhere.
ONLY_IN = {
    "pandas": {"lab"},
    "matplotlib": {"lab"},
    "IPython": {"lab"},
    "ipywidgets": {"lab"},
    "transformers": {"text", "checkpoints"},
    "tokenizers": {"text", "checkpoints", "testing"},
    "huggingface_hub": {"checkpoints"},
    "safetensors": {"checkpoints"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "llguidance": {"grammar"},
    "pydantic": {"request", "serve"},
    "openai": {"backends", "lab"},
    "typer": {"cli"},
    "rich": {"cli"},
    "jax": {"sampling", "models", "engine", "checkpoints", "backends", "lab", "bench", "testing", "cli"},
    "flax": {"models", "engine", "checkpoints", "bench", "testing"},
}
#: What no part of the package may import: other implementations, and what only tests or training need.
NOWHERE = {"torch", "optax", "pytest", "hypothesis", "beartype", "scipy", "pickle"}
#: What the engine, which knows token ids only, must not see.
NO_TEXT = {"engine", "sampling", "models"}

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc", "core"}
LONGEST = 400


class Import(NamedTuple):
    file: Path
    line: int
    module: str
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, at any depth, with the full name of what is imported."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in node.body
        for inner in ast.walk(child)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written out in full"
            for alias in node.names:
                # `from llmlab.lab import plots` names a room's file; `from llmlab import fields` a room.
                yield Import(path, node.lineno, f"{node.module}.{alias.name}", id(node) in typing_only)


FILES = sorted(PACKAGE.rglob("*.py"))
ALL = [found for path in FILES for found in imports(path)]


def rooms(found: Import) -> tuple[str, str] | None:
    """(importing room, imported room) of an import within the package; the façade's own names belong to nobody."""
    parts = found.module.split(".")
    if parts[0] != "llmlab" or found.file == PACKAGE / "__init__.py":
        return None
    return room_of(found.file), parts[1] if len(parts) > 1 else "__init__"


def test_there_is_something_to_test():
    assert len(FILES) > 20 and len(ALL) > 100
    assert {"engine", "lab", "text"} <= {room_of(path) for path in FILES}


def test_every_room_has_its_floor():
    unknown = {room_of(path) for path in FILES} - set(FLOOR) - {"__init__"}
    assert not unknown, f"rooms that no floor holds: {unknown}"


def test_rooms_import_only_what_lies_below():
    wrong = []
    for found in ALL:
        pair = rooms(found)
        if pair is None or pair[0] == pair[1] or pair in SIDEWAYS:
            continue
        here, there = pair
        # The façade may be asked for what it holds by itself (the version) and by the command line for everything.
        if there in ("__init__", "__version__") or (here == "cli" and there not in FLOOR):
            continue
        if there not in FLOOR or FLOOR[there] >= FLOOR[here]:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_the_facade_imports_late():
    early = [
        str(found)
        for found in imports(PACKAGE / "__init__.py")
        if not found.typing_only and found.module.startswith("llmlab") and not found.module.startswith("llmlab.errors")
    ]
    assert not early, "\n".join(early)


def test_third_party_packages_appear_where_they_belong():
    wrong = []
    for found in ALL:
        name, room = found.module.partition(".")[0], room_of(found.file)
        if name in NOWHERE or (name in ONLY_IN and room not in ONLY_IN[name]):
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_the_engine_never_sees_text():
    seen = [
        str(found) for found in ALL if room_of(found.file) in NO_TEXT and rooms(found) and rooms(found)[1] == "text"
    ]
    assert not seen, "\n".join(seen)


def test_what_is_imported_is_declared():
    """Every third-party import of the package is a declared dependency, so that a plain installation has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["serve"]]
    names = {requirement.partition("[")[0].partition(">")[0].strip().replace("-", "_") for requirement in declared}
    # jaxlib comes with jax, IPython with ipywidgets, starlette with fastapi.
    names |= {"jaxlib", "IPython", "starlette"} | {"llmlab"}
    missing = {
        str(found)
        for found in ALL
        if (top := found.module.partition(".")[0]) not in names and top not in sys.stdlib_module_names
    }
    assert not missing, "\n".join(sorted(missing))


def test_heavy_imports_of_light_rooms_are_late():
    """What a request or an error costs to import is what every client pays."""
    heavy = {"jax", "numpy", "pandas", "transformers"}
    for name in ("errors.py", "fields.py", "shapes.py", "exports.py", "request.py", "cli.py"):
        tree = ast.parse((PACKAGE / name).read_text("utf-8"))
        top = {alias.name.partition(".")[0] for n in tree.body if isinstance(n, ast.Import) for alias in n.names}
        top |= {n.module.partition(".")[0] for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
        assert not heavy & top, f"{name} imports {heavy & top} at its top"


@pytest.mark.parametrize("folder", ["llmlab", "tests", "data/build"])
def test_no_room_is_named_for_having_no_purpose(folder):
    found = {path for path in (ROOT / folder).rglob("*") if path.stem in BANNED_NAMES}
    assert not found


def test_no_file_is_longer_than_a_reader_can_hold():
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > LONGEST}


def test_nothing_trusts_a_checkpoints_code():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
