"""The parser of every command line: an error is one line that says what was found, and one hint.

argparse prints the whole usage instead, and its words are those of programmers ("invalid int value"). Order:
the help, parsing, what argparse calls for each value, errors in words.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from tinyllm import __version__
from tinyllm.cli.completion import complete
from tinyllm.cli.spellings import DASHES, closest, meant
from tinyllm.escape import printable_lines

KINDS = {int: "a whole number", float: "a number"}
_REQUIRED = "the following arguments are required: "  # argparse's words
_ALONE = "ignored explicit argument "


class Help(argparse.HelpFormatter):
    """Fills each paragraph to the width of the terminal, but for a list, which a line with a colon begins."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            textwrap.indent(part, indent)
            if part.partition("\n")[0].endswith(":")
            else super(Help, self)._fill_text(part, width, indent)
            for part in text.split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose errors fit a person; they end with exit code 2.

    It has --version besides --help, and so has each of its commands.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        fixed = {"allow_abbrev": False, "exit_on_error": False, "formatter_class": Help}
        super().__init__(*args, **{**settings, **fixed})
        self.add_argument("--version", action="version", version=f"tinyllm {__version__}")

    def put_first(self, title: str, options: Iterable[str]) -> None:
        """Let --help begin with these options, in a group of their own; --help itself comes last."""
        first = self.add_argument_group(title)
        for action in (self._option_string_actions[option] for option in options):
            for group in self._action_groups:
                if action in group._group_actions:
                    group._group_actions.remove(action)
            first._group_actions.append(action)
        groups = [group for group in self._action_groups if group not in (first, self._optionals)]
        self._action_groups = [first, *groups, self._optionals]

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Return the options; a mistake ends the program."""
        complete(self)
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error("; ".join(map(self._superfluous, rest)))
        return found

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the options, and arguments that are none; a mistake ends the program."""
        words = list(sys.argv[1:] if args is None else args)
        # Before anything else: a missing argument, which argparse finds first, may be the misspelt one.
        if unknown := [word for i, word in enumerate(words) if self._is_unknown(words, i)]:
            self.error("; ".join(map(self._unknown, unknown)))
        try:
            return super().parse_known_args(words, namespace)
        except argparse.ArgumentError as error:
            self.error(self._explained(error))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a message that quotes what was typed, or what a shell made of `*`, without obeying it."""
        super()._print_message(printable_lines(message), file)

    def error(self, message: str) -> NoReturn:
        """Print the message and where the options are listed; end with exit code 2."""
        if message.startswith(_REQUIRED):
            message = self._missing(message.removeprefix(_REQUIRED))
        self.exit(2, f"error: {message}\n{self.prog} --help lists the options\n")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if action.type not in KINDS:
                raise  # the type has said what it expects
            raise argparse.ArgumentError(
                action, f"found {arg_string!r}, expected {_expected(action)}"
            ) from error

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            similar = closest(str(value), map(str, action.choices))
            hint = f"; did you mean {similar}?" if similar else ""
            raise argparse.ArgumentError(action, f"found {value!r}, expected {_expected(action)}{hint}")

    def _is_unknown(self, words: list[str], i: int) -> bool:
        """Return whether words[i] is an option that does not exist, as argparse judges."""
        if "--" in words[:i] or (self._subparsers and any(not word.startswith("-") for word in words[:i])):
            return False  # only arguments follow, or another parser's words
        word, known = words[i], self._option_string_actions
        before = known.get(words[i - 1]) if i else None
        if before is not None and before.nargs is None:
            return False  # the value of an option is missing, or looks like an option
        is_option = word.startswith("-") and word not in ("-", "--") and " " not in word.partition("=")[0]
        is_number = bool(self._negative_number_matcher.match(word))
        return is_option and not is_number and word.partition("=")[0] not in known

    def _unknown(self, word: str) -> str:
        hint = meant(word, self._option_string_actions, self._arguments())
        return f"unknown option {word.partition('=')[0]}{': ' if hint else ''}{hint}"

    def _superfluous(self, word: str) -> str:
        hint = ""
        if word[0] in DASHES or "=" in word:  # an option, if it had its two hyphens
            hint = meant(word, self._option_string_actions)
        return f"found {word!r} where no argument is expected{': ' if hint else ''}{hint}"

    def _arguments(self) -> list[str]:
        return [str(action.metavar) for action in self._actions if not action.option_strings]

    def _missing(self, names: str) -> str:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and action.dest == names:
                return f"found no {names}, expected {_expected(action)}"
        return f"{names} {'are' if ', ' in names else 'is'} missing"

    def _explained(self, error: argparse.ArgumentError) -> str:
        """Return an error of argparse in the words of this program."""
        message = error.message
        if error.argument_name is None:
            return message
        name = error.argument_name.partition("/")[0]  # of --async/--no-async
        action = self._option_string_actions.get(name)
        if action is not None and message.startswith(_ALONE):
            value = message.removeprefix(_ALONE)
            message = f"found the value {value}, expected {' or '.join(action.option_strings)} alone"
        elif action is not None and message in ("expected one argument", "expected at least one argument"):
            message = f"found no value, expected {_expected(action)}"
            if action.type not in KINDS and not action.choices:
                message += f"; a value that begins with - is written {name}=-..."
        return f"{name}: {message}"


def _expected(action: argparse.Action) -> str:
    """Return which values an option takes, in words."""
    if action.choices:
        return listed(map(str, action.choices))
    return KINDS.get(action.type, str(action.metavar or "a value"))  # type: ignore[call-overload, no-any-return]


def listed(words: Iterable[str]) -> str:
    """Return words as a list of alternatives: `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
