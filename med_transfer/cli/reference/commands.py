"""docs/reference/commands.md: every command of the program with its arguments, options and an example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.main import get_command

from med_transfer.cli.app import app
from med_transfer.cli.reference.table import table

_HEAD = """# Commands

Written from the program by `make docs`; `med-transfer COMMAND --help` says the same.

Exit codes of every command: 0 done, 1 some scans failed but the rest is written, 2 wrong usage or input, 3 nothing
could be done, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, 70 a fault of the program. Progress goes to stderr,
results to files or stdout.

"""


def commands_page() -> str:
    """The page."""
    program = get_command(app)
    parts = [f"## Before the command\n\n{_options(program)}"]
    parts += [_command(words, command) for words, command in _leaves(program, ())]
    return _HEAD + "\n\n".join(parts) + "\n"


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Commands that do something, groups opened."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        yield from _leaves(inner, (*words, name))


def _command(words: tuple[str, ...], command: Any) -> str:
    arguments = " ".join(parameter.name.upper() for parameter in command.params if _is_argument(parameter))
    usage = f"`med-transfer {' '.join(words)} [OPTIONS] {arguments}`".replace(" `", "`")
    example = (command.epilog or "").removeprefix("Example: ")
    parts = [f"## {' '.join(words)}", command.help or "", usage, _options(command)]
    return "\n\n".join(part for part in (*parts, f"Example: `{example}`" if example else "") if part)


def _options(command: Any) -> str:
    choices = _choices(command.callback)
    rows = [
        (_names(parameter, choices), " ".join((getattr(parameter, "help", "") or "").split()), _default(parameter))
        for parameter in command.params
        if not getattr(parameter, "hidden", False) and parameter.name != "help"
    ]
    return table(("argument or option", "meaning", "default"), rows) if rows else ""


def _choices(callback: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """Of parameters that take one of a few words."""
    hints = get_type_hints(callback)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _names(parameter: Any, choices: dict[str, tuple[str, ...]]) -> str:
    if _is_argument(parameter):
        return f"`{parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    words = choices.get(parameter.name, ())
    return f"{names}: {', '.join(f'`{word}`' for word in words)}" if words else names


def _is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(shown := getattr(parameter, "show_default", None), str):
        return shown
    if parameter.default in (None, False, (), []) or callable(parameter.default):
        return ""
    return "yes" if parameter.default is True else f"`{parameter.default}`"
