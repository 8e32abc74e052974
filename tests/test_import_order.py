"""The table in docs/architecture.md is enforced: a module imports only what comes before it in the flow."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "med_transfer"
OPEN_TO_ALL = {"errors", "atomic", "processor", "progress"}
MAX_NAMES = 30  # a listing that reads at a glance: 27 rooms and foundations, planning, hospital and runtimes
LAZY_ALLOWED = {"cli", "__init__"}
_NOT_PACKAGES = {"__init__", "__main__", "__pycache__"}
NAMES = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"} - _NOT_PACKAGES


@dataclass(frozen=True)
class Import:
    module: str  # dotted, without "med_transfer."
    imported: str
    line: int
    lazy: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def target(self) -> str:
        return self.imported.partition(".")[0]


@functools.cache
def allowed_imports() -> dict[str, set[str]]:
    rows = re.findall(r"^\| (`.*?`) \|.*\| (.*?) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    return {name: _words(name, words) for names, words in rows for name in re.findall(r"`(\w+)`", names)}


def _words(name: str, words: str) -> set[str]:
    """Rooms by name, or `everything but` some."""
    named = NAMES & set(re.findall(r"\w+", words))
    return NAMES - {name} - named if words.startswith("everything") else named


@functools.cache
def modules() -> dict[str, str]:
    """By name; the names of a package, which load on first use, stand in its ``__init__.pyi``."""
    paths = [*sorted(PACKAGE.rglob("*.py")), *sorted(PACKAGE.rglob("*.pyi"))]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text() for path in paths}


def imports_of(source: str, module: str) -> Iterator[Import]:
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            of = node.module or ""
            if node.level:
                of = ".".join(["med_transfer", *module.split(".")[: -node.level], of])
            names = [_source(of, alias.name) for alias in node.names]
        for name in dict.fromkeys(names):
            if name.partition(".")[0] == "med_transfer":
                yield Import(module, name.partition(".")[2], node.lineno, id(node) in lazy)


def _source(module: str, name: str) -> str:
    """`from a import b` reads module a.b when there is one, and else module a."""
    full = f"{module}.{name}"
    known = {full.partition(".")[2], f"{full.partition('.')[2]}.__init__"} & set(modules())
    return full if module == "med_transfer" or known else module


def violations(source: str, module: str) -> list[str]:
    allowed, found = allowed_imports(), []
    for one in imports_of(source, module):
        where = f"{module}:{one.line} imports {one.imported or 'med_transfer'}"
        if one.package in {"__init__", "__main__"}:
            continue  # the public names come from everywhere, and `python -m` is the command line
        if one.target not in {one.package} | OPEN_TO_ALL | allowed.get(one.package, set()):
            found.append(f"{where}, which the table does not allow")
        if one.target == "cli" and one.package != "cli":
            found.append(f"{where}; nobody may")
        if one.lazy and one.package not in LAZY_ALLOWED:
            found.append(f"{where} inside a function")
    return found


def test_table_lists_every_package():
    assert set(allowed_imports()) == NAMES


def test_the_formatter_decides_everywhere():
    exception = "# fmt: " + "skip"
    assert not [path for path in ROOT.glob("[bmnt]*/**/*.py") if exception in path.read_text()]


def test_the_listing_stays_short():
    assert len(NAMES) <= MAX_NAMES


@pytest.mark.parametrize("package", sorted(NAMES | {"__init__"}))
def test_package_keeps_to_the_table(package):
    broken = [
        v for name, text in modules().items() if name.partition(".")[0] == package for v in violations(text, name)
    ]
    assert not broken, "\n".join(broken)


def test_table_has_no_cycle():
    order = list(TopologicalSorter(allowed_imports()).static_order())
    assert order.index("scans") < order.index("cohorts") < order.index("finetuning") < order.index("cli")


def test_modules_form_no_cycle():
    graph: dict[str, set[str]] = {}
    for name, source in modules().items():
        graph[name.removesuffix(".__init__")] = {one.imported for one in imports_of(source, name) if not one.lazy}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("scans.reading", "from med_transfer.cohorts.table import Case", "does not allow"),
        ("metrics.rates", "import med_transfer.evaluation.evaluate", "does not allow"),
        ("predictions.labels", "from med_transfer import scans", "does not allow"),
        ("scans.reading", "from med_transfer.config import load_config", "does not allow"),
        ("api", "from med_transfer.cli import app", "nobody may"),
        ("cohorts.table", "from med_transfer import Cohort", "does not allow"),
        ("cohorts.table", "def f():\n    from med_transfer import predictions", "inside a function"),
    ],
)
def test_a_wrong_import_is_found(module, source, complaint):
    assert complaint in "\n".join(violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli.finetune", "def f():\n    from med_transfer.finetuning import finetune"),
        ("backbones.networks.resnet", "from med_transfer.errors import BackboneError\ndef f():\n    import monai"),
        ("cohorts.table", "from med_transfer import predictions, atomic\nfrom med_transfer.cohorts import case"),
    ],
)
def test_a_right_import_is_let_through(module, source):
    assert violations(source, module) == []
