"""Every command that the program suggests exists, with the options suggested."""

import ast
import re
from pathlib import Path

import typer

import med_transfer
from med_transfer.cli.app import app

PACKAGE = Path(med_transfer.__file__).parent
PROGRAM = typer.main.get_command(app)
NAMED = re.compile(r"med-transfer ([a-z]+)(?: (\S+))?((?:(?!med-transfer |\. ).)*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
PROSE = {"on", "review", "wrote"}  # what follows the program's name in its own sentences


def texts() -> list[str]:
    """All that could be shown; docstrings are shown as help."""
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    nodes = [node for source in sources if "med-transfer " in source for node in ast.walk(ast.parse(source))]
    said = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    pages = [path.read_text() for path in (*PACKAGE.rglob("*.jinja"), *PACKAGE.rglob("*.zh_TW.yaml"))]
    return [" ".join(text.split()) for text in said + [OPTION.sub("", page) for page in pages]]  # styles have --ink


def wrong(text: str) -> list[str]:
    """What is named there and is no command, or no option of it: ``labels COHORT.csv``, since labels has commands."""
    found = []
    for name, second, rest in NAMED.findall(text):
        command, second = PROGRAM.commands.get(name), second.strip(".,;:)`")
        if below := getattr(command, "commands", {}) if second else {}:
            command = below.get(second)
        if command is None:
            found += [f"{name} {second}"] if name not in PROSE else []
            continue
        options = {option for each in command.params for option in each.opts + each.secondary_opts}
        is_group = hasattr(command, "commands")
        found += [f"{name} {option}" for option in OPTION.findall(rest) if not is_group and option not in options]
    return found


def test_every_command_that_is_named_is_there():
    said = texts()
    assert sum(len(NAMED.findall(text)) for text in said) > 60
    assert [each for text in said for each in wrong(text)] == []


def test_what_is_no_command_is_found():
    assert wrong("See med-transfer labels COHORT.csv says how many.") == ["labels COHORT.csv"]
    assert wrong("Use med-transfer foresee SCANS.") == ["foresee SCANS"]
    assert wrong("Use med-transfer predict BUNDLE SCANS --follow.") == ["predict --follow"]
    assert wrong("Use med-transfer labels budget COHORT.csv --target, or med-transfer node: both are there.") == []
