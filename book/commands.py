"""The page "Command line", made from the parser that reads the command line: `python book/commands.py` writes it anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from distill import cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

The command `distill` fetches data, computes runs and says what is recorded. It is in `.venv/bin` after `make setup`, and wherever the package is installed ([Reference](api.md)). [Run it yourself](rerun.md) shows it at work. This page is made from the command's own help, and a test compares the two.
"""


def page() -> str:
    """The page as Markdown."""
    top = cli.parser()
    (commands,) = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    says = {action.dest: action.help for action in commands._choices_actions}
    parts = [HEAD, "```text\ndistill COMMAND ...\n```\n", options(top), f"{(top.epilog or '').replace('--debug', '`--debug`')}\n"]
    for name, command in commands.choices.items():
        parts += [f"## distill {name}\n", f"{says[name][0].upper()}{says[name][1:]}.\n", f"```text\n{usage(command)}\n```\n", options(command)]
    return "\n".join(parts)


def names(action: argparse.Action) -> str:
    """How an option is written, with the value that it takes."""
    value = "" if action.nargs == 0 else " " + (action.metavar or action.dest.upper())
    return " or ".join(name + value for name in action.option_strings) or str(action.metavar)


def usage(command: argparse.ArgumentParser) -> str:
    """Everything that may be given; what need not be is in brackets."""
    given = [(names(action) + (" ..." if action.nargs in ("*", "+") else ""), action.required and action.nargs != "*") for action in shown(command)]
    return "\n    ".join([command.prog, *(text if needed else f"[{text}]" for text, needed in given)])


def shown(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes, without its own help and its subcommands."""
    return [action for action in command._actions if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)]


def options(command: argparse.ArgumentParser) -> str:
    """What a command takes, as a definition list."""
    text = [f"`{names(action)}`\n: {(action.help or '').replace('%(prog)s', command.prog)}{' (must be given)' if action.required and action.option_strings else ''}\n"
            for action in shown(command)]  # fmt: skip
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page())
