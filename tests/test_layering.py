"""Who may import whom: the rules that keep each room of the package understandable by itself.

    cli -> __init__ -> lab -> {playground, sweeps, checks, audit} -> results -> {counterfactuals, search, certainty}
        -> plots -> {frames, display} -> {protocol, distributions, text, metrics} -> {sampling, errors}
    lab -> backends -> {engine, checkpoints} -> {models, grammar, text, protocol} -> {sampling, errors}
    serve -> protocol

A room imports rooms on floors below its own, never beside or above it, and no two files import each other by any way
round. Imports inside functions and imports for the type checker alone count like all others.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmlab"

FLOORS = [
    {"errors", "version"},
    {"sampling", "embedded"},
    {"protocol", "distributions", "metrics", "text", "models", "grammar"},
    {"frames", "display", "serve", "engine", "checkpoints"},
    {"plots", "backends"},
    {"counterfactuals", "search", "certainty"},
    {"results"},
    {"sweeps", "checks", "audit", "playground"},
    {"lab"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: Public test doubles: they build checkpoints, and nothing of the package may lean on them.
FLOOR["testing"] = FLOOR["backends"]

#: The engine's tower and the laboratory's. They share the floors below, and meet where a lab is made.
ENGINE_TOWER = {"backends", "engine", "checkpoints", "models", "grammar"}
LAB_TOWER = {"frames", "display", "plots", "counterfactuals", "results", "sweeps", "checks", "audit", "playground"}
LAB_TOWER |= {"search", "certainty", "lab"}
MEETING_PLACE = "llmlab/lab/loading.py"

#: Where each of these may be imported; a name that is not here may be imported anywhere.
ONLY_IN = {
    "pandas": {"frames", "metrics", "certainty", "results", "counterfactuals", "sweeps", "checks", "audit", "plots"},
    "matplotlib": {"plots"},
    "IPython": {"display"},
    "ipywidgets": {"playground"},
    "pyarrow": {"frames"},
    "transformers": {"text", "checkpoints"},
    "tokenizers": {"text", "checkpoints", "testing"},
    "huggingface_hub": {"checkpoints"},
    "numba": {"models"},
    "safetensors": {"checkpoints"},
    "gguf": {"checkpoints", "cli"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "prometheus_client": {"serve"},
    "llguidance": {"grammar"},
    "pydantic": {"protocol", "serve"},
    "openai": {"protocol", "backends", "results", "lab", "serve"},
    "anyio": {"backends"},
    "scipy": {"checks", "certainty", "sweeps"},
    "typer": {"cli"},
    "rich": {"cli"},
    "jax": {"sampling", "models", "engine", "checkpoints", "backends", "distributions", "testing", "cli"},
    "flax": {"models", "engine", "checkpoints", "testing"},
}
#: These may be named in annotations anywhere: what a method returns has a type.
ANNOTATIONS = {"pandas", "matplotlib", "openai"}
#: What no part of the package may import: other implementations, and what only tests or training need.
NOWHERE = {"torch", "optax", "pytest", "hypothesis", "beartype", "pickle"}
#: What knows token ids only must not see text.
NO_TEXT = {"engine", "sampling", "models", "distributions"}

#: Other implementations run beside ours in `llmlab bench --peers`: programs that are started, and imported by nothing.
CONTENDERS = {
    "transformers_generate": {"torch", "transformers"},
    "first_token": {"torch", "transformers"},
    "llama_cpp": {"xllamacpp"},
}
CONTENDERS_ROOM = PACKAGE / "cli" / "bench" / "contenders"

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc", "core"}
LONGEST = 400
#: The largest share of the package's lines that one room may hold.
LARGEST_ROOM = 0.15


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
                # `from llmlab.plots import sweep` names a room's file; `from llmlab import metrics` a room.
                yield Import(path, node.lineno, f"{node.module}.{alias.name}", id(node) in typing_only)


def contends(path: Path) -> set[str]:
    """What a file may import because it is a contender."""
    return CONTENDERS.get(path.stem, set()) if path.parent == CONTENDERS_ROOM else set()


FILES = sorted(PACKAGE.rglob("*.py"))
ALL = [found for path in FILES for found in imports(path)]
#: Dotted name -> file.
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def rooms(found: Import) -> tuple[str, str] | None:
    """(importing room, imported room) of an import within the package."""
    parts = found.module.split(".")
    if parts[0] != "llmlab":
        return None
    there = parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"
    return room_of(found.file), there


def edges() -> dict[str, set[str]]:
    """Which files import which, by dotted names; importing a room's `__init__` is importing the room, not a file."""
    found: dict[str, set[str]] = {name: set() for name in MODULES}
    names = {path: name for name, path in MODULES.items()}
    for one in ALL:
        for module in (one.module, one.module.rpartition(".")[0]):
            path = MODULES.get(module)
            if path is not None and path.name != "__init__.py" and path != one.file:
                found[names[one.file]].add(module)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one file (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_there_is_something_to_test():
    assert len(FILES) > 150 and len(ALL) > 1000
    assert {"engine", "lab", "text"} <= {room_of(path) for path in FILES}
    assert sum(map(len, edges().values())) > 500


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_every_room_has_its_floor():
    unknown = {room_of(path) for path in FILES} - set(FLOOR)
    assert not unknown, f"rooms that no floor holds: {unknown}"


def test_rooms_import_only_what_lies_below():
    wrong = []
    for found in ALL:
        pair = rooms(found)
        if pair is None or pair[0] == pair[1] or pair[0] == "__init__":
            continue
        here, there = pair
        if FLOOR[there] >= FLOOR[here]:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other():
    found = circles(edges())
    assert not found, "\n".join(" <-> ".join(circle) for circle in found)


def test_the_towers_meet_where_a_lab_is_made():
    """The lab knows protocols of a backend, not backends; only `loading` makes one, and the command line."""
    wrong = [
        str(found)
        for found in ALL
        if (pair := rooms(found)) is not None
        and pair[0] in LAB_TOWER
        and pair[1] in ENGINE_TOWER
        and str(found.file.relative_to(ROOT)) != MEETING_PLACE
    ]
    assert not wrong, "\n".join(wrong)


def test_the_facade_imports_late():
    early = [
        str(found)
        for found in imports(PACKAGE / "__init__.py")
        if not found.typing_only
        and found.module.startswith("llmlab")
        and not found.module.startswith(("llmlab.errors", "llmlab.version"))
    ]
    assert not early, "\n".join(early)


def test_third_party_packages_appear_where_they_belong():
    wrong = []
    for found in ALL:
        name, room = found.module.partition(".")[0], room_of(found.file)
        if name in ANNOTATIONS and found.typing_only:
            continue
        if name in contends(found.file):
            continue
        if name in NOWHERE or (name in ONLY_IN and room not in ONLY_IN[name]):
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_contenders_are_imported_by_nothing():
    names = {f"llmlab.cli.bench.contenders.{name}" for name in CONTENDERS}
    assert not [str(found) for found in ALL if any(found.module.startswith(name) for name in names)]
    assert all((CONTENDERS_ROOM / f"{name}.py").is_file() for name in CONTENDERS)


def test_what_knows_token_ids_never_sees_text():
    seen = [
        str(found) for found in ALL if room_of(found.file) in NO_TEXT and (pair := rooms(found)) and pair[1] == "text"
    ]
    assert not seen, "\n".join(seen)


def test_what_is_imported_is_declared():
    """Every third-party import of the package is a declared dependency, so that a plain installation has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["serve"], *extras["gguf"], *extras["cpu"]]
    names = {requirement.partition("[")[0].partition(">")[0].strip().replace("-", "_") for requirement in declared}
    # jaxlib comes with jax, IPython with ipywidgets, starlette with fastapi, markupsafe with jinja2, pydantic_core
    # with pydantic.
    names |= {"jaxlib", "IPython", "starlette", "markupsafe", "pydantic_core"} | {"llmlab"}
    missing = {
        str(found)
        for found in ALL
        if (top := found.module.partition(".")[0]) not in names | contends(found.file)
        and top not in sys.stdlib_module_names
    }
    assert not missing, "\n".join(sorted(missing))


def test_heavy_imports_of_light_files_are_late():
    """What a request or an error costs to import is what every client pays."""
    heavy = {"jax", "numpy", "pandas", "transformers"}
    light = [PACKAGE / name for name in ("errors.py", "version.py", "cli/app.py")]
    light += [PACKAGE / f"protocol/{name}.py" for name in ("request", "checks", "parts", "export")]
    for path in light:
        tree = ast.parse(path.read_text("utf-8"))
        top = {alias.name.partition(".")[0] for n in tree.body if isinstance(n, ast.Import) for alias in n.names}
        top |= {n.module.partition(".")[0] for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
        assert not heavy & top, f"{path.name} imports {heavy & top} at its top"


@pytest.mark.parametrize("folder", ["llmlab", "tests", "data/build"])
def test_no_room_is_named_for_having_no_purpose(folder):
    found = {path for path in (ROOT / folder).rglob("*") if path.stem in BANNED_NAMES}
    assert not found


def test_no_file_is_longer_than_a_reader_can_hold():
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > LONGEST}


def test_no_room_holds_most_of_the_package():
    lines: Counter[str] = Counter()
    for path in FILES:
        lines[room_of(path)] += len(path.read_text("utf-8").splitlines())
    total = lines.total()
    for number, floor in enumerate(FLOORS, start=1):
        print(f"floor {number:2d}: " + ", ".join(f"{room} {lines[room]}" for room in sorted(floor)))
    room, most = lines.most_common(1)[0]
    print(f"{len(FILES)} files, {total} lines, {len(lines)} rooms; the largest is {room} with {most / total:.1%}")
    assert most <= LARGEST_ROOM * total


def test_nothing_trusts_a_checkpoints_code():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
