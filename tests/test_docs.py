"""The documentation against the code: its examples run, its links resolve, its tables are what the code gives.

An example is a fenced block that begins with ```` ```python runnable ````; it is a whole program.
``python tests/test_docs.py`` prints the table of accepted sizes for docs/codes.md.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradcode import codes, compression, delays, network, schemes
from gradcode.codes import GradientCode

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
PACKAGE = ROOT / "src" / "gradcode"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Examples


def examples(page: Path) -> list[str]:
    """The runnable blocks, each behind as many empty lines as make its line numbers those of the page."""
    blocks = re.finditer(r"^```python runnable\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return ["\n" * text_of(page)[: block.start(1)].count("\n") + block[1] for block in blocks]


PAGES_WITH_EXAMPLES = [page for page in PAGES if examples(page)]

RUN_ALL = """
import contextlib, io, json, os, runpy, sys, traceback
told = []
for script in sys.argv[1:]:
    os.chdir(os.path.dirname(script))
    said, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(script)
    except BaseException:
        error = traceback.format_exc()
    told.append([said.getvalue(), error])
print(json.dumps(told))
"""


def run(*command: str | Path, where: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *command],
        cwd=where,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_itself(program: str) -> bool:
    """Workers of a local cluster import the script they belong to, so that one has a process of its own."""
    return "__main__" in program


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[tuple[str, str]]]:
    """What all other examples print and the traceback if there is one, page by page, each run as a script in the page's
    folder. One process for all of them: each of its own would load torch anew."""
    scripts: list[tuple[Path, Path]] = []
    for page in PAGES_WITH_EXAMPLES:
        folder = tmp_path_factory.mktemp(page.stem)
        for number, program in enumerate(own for own in examples(page) if not by_itself(own)):
            scripts.append((page, folder / f"{page.stem}_{number}.py"))
            scripts[-1][1].write_text(program, encoding="utf-8")
    found: dict[Path, list[tuple[str, str]]] = {page: [] for page in PAGES_WITH_EXAMPLES}
    said = run("-c", RUN_ALL, *(script for _, script in scripts), where=tmp_path_factory.getbasetemp())
    for (page, _), (output, error) in zip(scripts, json.loads(said), strict=True):
        found[page].append((output, error))
    return found


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=page_id)
def test_examples_run(page: Path, told: dict[Path, list[tuple[str, str]]], tmp_path: Path) -> None:
    """Rows of tables that they print are in the page."""
    assert not [error for _, error in told[page] if error]
    outputs = [output for output, _ in told[page]]
    script = tmp_path / f"{page.stem}.py"
    for program in filter(by_itself, examples(page)):
        script.write_text(program, encoding="utf-8")
        outputs.append(run(script, where=tmp_path))
    assert len(outputs) == len(examples(page))
    rows = [line for output in outputs for line in output.splitlines() if line.startswith("| ")]
    assert not [row for row in rows if row not in text_of(page).replace("**", "")]


def test_there_are_examples() -> None:
    pages = {page_id(page) for page in PAGES_WITH_EXAMPLES}
    assert {"README.md", "docs/training.md", "docs/adding-a-method.md", "docs/choosing.md"} <= pages


# Links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_internal_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def test_the_readme_leads_to_every_page() -> None:
    text = text_of(ROOT / "README.md")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in text]


# What the registries hold is documented


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("codes.md", sorted(codes.REGISTRY)),
        ("compression.md", sorted(compression.REGISTRY)),
        ("encoded.md", sorted(codes.encoders.REGISTRY)),
        ("network.md", [*network.CONTROLLERS, *network.RADIOS]),
        ("schemes.md", [entry.name for entry in schemes.available()]),
        ("delays.md", sorted(delays.LAWS)),
    ],
)
def test_every_registered_name_has_its_place(page: str, names: list[str]) -> None:
    text = text_of(ROOT / "docs" / page)
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_key_of_a_configuration_is_documented() -> None:
    from pydantic import BaseModel

    from gradcode.cli import config

    text = text_of(ROOT / "docs" / "configuration.md")
    tables = [own for own in vars(config).values() if isinstance(own, type) and issubclass(own, BaseModel)]
    keys = {key for table in tables for key in table.model_fields}
    assert not [key for key in sorted(keys) if f"`{key}`" not in text and f"[{key}]" not in text]


def test_every_field_of_a_metrics_line_is_documented() -> None:
    import numpy as np

    from gradcode.protocol import Report
    from gradcode.reporting import Summary, record

    report = Report(0, 0, 0.0, 1.0, 1.0, np.ones(2), (), (), 0.0, 0.0, 0.0, True, 0, 0, 0, 0, 1.0, 1.0)
    text = text_of(ROOT / "docs" / "outputs.md")
    summary = Summary()
    summary(report)
    assert not [field for field in (*record(report), *summary.as_dict()) if f"`{field}`" not in text]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_toml_blocks_parse(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL):
        tomllib.loads(block)


# The table of accepted sizes in docs/codes.md

SIZES: dict[str, Callable[[int, int, str], GradientCode]] = {
    "`fractional_repetition`": lambda n, s, dtype: codes.fractional_repetition(n, s, dtype=dtype),
    "`cyclic_repetition`": lambda n, s, dtype: codes.cyclic_repetition(n, s, dtype=dtype),
    '`cyclic_repetition`, `variant="random"`': lambda n, s, dtype: codes.cyclic_repetition(
        n, s, variant="random", dtype=dtype
    ),
    "`cyclic_mds`": lambda n, s, dtype: codes.cyclic_mds(n, s, dtype=dtype),
    "`reed_solomon`": lambda n, s, dtype: codes.reed_solomon(n, s, dtype=dtype),
    "`heterogeneous`, speeds 1, 2, 1, 2, …": lambda n, s, dtype: codes.heterogeneous(
        [1.0, 2.0] * (n // 2), 2 * n, s, dtype=dtype
    ),
}


@functools.cache
def accepted(name: str, workers: int, dtype: str) -> str:
    """The numbers of stragglers that a constructor accepts, and the bound of the first that it refuses."""
    held, first = [], ""
    for stragglers in range(1, workers):
        try:
            SIZES[name](workers, stragglers, dtype)
            held.append(stragglers)
        except ValueError as refusal:
            bound = str(refusal).partition("error bound reaches ")[2].partition(" of")[0]
            first = first or f" (s = {stragglers}: {bound})"
    return (_ranges(held) or "none") + first


def _ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 5] -> "1–3, 5"."""
    ends = [(i, i) for i in numbers[:1]]
    for i in numbers[1:]:
        ends[-1:] = [(ends[-1][0], i)] if i == ends[-1][1] + 1 else [ends[-1], (i, i)]
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in ends)


def size_row(name: str, dtype: str, sizes: tuple[int, ...]) -> str:
    return f"| {name} | {dtype} | " + " | ".join(accepted(name, workers, dtype) for workers in sizes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SIZES)
def test_the_table_of_accepted_sizes(name: str, dtype: str) -> None:
    """The small sizes anew; 32 takes too long here, and is what this file prints when run as a script."""
    sizes = (8,) if "random" in name else (8, 16)
    assert size_row(name, dtype, sizes) + " | " in text_of(ROOT / "docs" / "codes.md")


# The house: imports only go down

FLOORS = {
    "errors": 1,
    "orders": 1,
    "protocol": 1,
    "report": 1,
    "topology": 1,
    "codes": 1,
    "compression": 1,
    "delays": 1,
    "network": 2,
    "schemes": 2,
    "training": 3,
    "clusters": 4,
    "session": 5,
    "trainer": 5,
    "planning": 5,
    "solvers": 6,
    "reporting": 6,
    "catalog": 6,
    "experiments": 7,
    "cli": 8,
}
# Who on one floor may import whom, beside errors, which everybody may.
BESIDE = {
    ("protocol", "orders"),
    ("protocol", "report"),
    ("protocol", "topology"),
    ("topology", "protocol"),
    ("trainer", "session"),
    ("planning", "session"),
}


def room_of(module: str) -> str:
    """``gradcode.codes.code`` -> ``codes``; the package itself is the front door, not a room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of a room of gradcode, those within functions and for type checkers included."""
    for node in ast.walk(ast.parse(text_of(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "gradcode":
            names = [f"gradcode.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative imports hide the floor"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "gradcode" and room_of(name) and not room_of(name).startswith("__"):
                yield node.lineno, room_of(name)


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(FLOORS)


def test_imports_only_go_down() -> None:
    upwards = []
    for file in sorted(PACKAGE.rglob("*.py")):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for line, room in imports(file):
            beside = room == "errors" or (own, room) in BESIDE
            if room != own and FLOORS[room] >= FLOORS[own] and not (beside and FLOORS[room] == FLOORS[own]):
                upwards.append(f"{file.relative_to(PACKAGE)}:{line} imports {room}")
    assert not upwards


@pytest.mark.parametrize(
    ("room", "unknown"),
    [
        ("codes", {"torch", "multiprocessing", "time"}),
        ("delays", {"torch", "multiprocessing", "time"}),
        ("network", {"torch", "multiprocessing", "time"}),
    ],
)
def test_the_ground_floor_knows_no_torch_and_no_clock(room: str, unknown: set[str]) -> None:
    found = []
    for file in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(text_of(file))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{file.name}: {name}" for name in names if name.split(".")[0] in unknown]
    assert not found


if __name__ == "__main__":
    for label in SIZES:
        for payload in ("float32", "float64"):
            print(size_row(label, payload, (8, 16, 32)) + " |", flush=True)
