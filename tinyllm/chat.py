"""Talk to a model: `python -m tinyllm.chat MODEL`; answers go to stdout, all else to stderr.

No line that is typed ends the program but :exit, the end of the input, and Ctrl-C at the prompt. Order:
options, main, the questions, the commands.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tinyllm import __version__
from tinyllm.cli import command
from tinyllm.cli.main import program
from tinyllm.config import ConfigError
from tinyllm.inference.settings import (
    OPTIONS,
    Sampling,
    add_model_arguments,
    add_sampling_arguments,
    check,
    check_common,
    given_sampling,
)

if TYPE_CHECKING:
    from tinyllm.inference.conversation import Conversation

DEFAULTS = Sampling(temperature=0.7, top_p=0.9)
DESCRIPTION = """\
Talk to a model. The conversation goes on within the model's window; when that is full, the oldest
turns are forgotten. An answer ends where the model ends it, or at --max-tokens; Ctrl-C ends it early."""
COMMANDS = """\
:help                  show these lines
:set NAME=VALUE        change temperature, top_p, top_k or repetition_penalty; alone: show them
:save PATH             write the conversation to a new file: .json or .jsonl, as training reads it, else text
:clear                 forget the conversation
:exit                  end the program, as Ctrl-D does; Ctrl-C ends an answer"""


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse, check and add `sampling`; any mistake ends the program with exit code 2 and a message."""
    top = argparse.ArgumentParser(
        "tinyllm chat", description=DESCRIPTION, allow_abbrev=False, epilog="commands:\n" + COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"tinyllm {__version__}")
    top.add_argument(
        "--prompt", metavar="TEXT", help="answer this one question and end; - reads it from stdin"
    )
    top.add_argument(
        "--memory", type=int, metavar="N",
        help="earlier questions that the model sees, with their answers; 0 suits a model that was trained on "
        "single questions only (default: all that fit the window)",
    )  # fmt: skip
    add_model_arguments(top, max_tokens=128)
    add_sampling_arguments(top, DEFAULTS)
    args = top.parse_args(argv)
    try:
        check_common(args)
        if args.memory is not None:
            check("memory", args.memory, low=0)
        args.sampling = Sampling(**{**vars(DEFAULTS), **given_sampling(args)})
    except ConfigError as error:
        top.error(str(error))
    return args


def main(
    argv: list[str] | None = None,
    stdin: TextIO | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 wrong options, 130 interrupted."""
    args = options(argv)
    return command.run(_run, args, args.blas_threads, stdin, out, err)


def _run(args: argparse.Namespace, stdin: TextIO, out: TextIO, err: TextIO) -> int:
    from tinyllm.inference.conversation import Conversation

    question = None if args.prompt is None else command.text_of(args.prompt, stdin).strip()
    if question == "":
        raise ConfigError("--prompt: found no text, expected a question")
    model = command.load(args, err)
    conversation = Conversation(model, args.sampling, args.max_tokens, args.seed, args.memory)
    chat = Chat(conversation, out, err)
    if question is not None:
        chat.ask(question)
        return 0
    chat.say(f"tinyllm {__version__}: {args.model}, a window of {model.config.block_size} tokens")
    chat.say(":help shows what else you can type")
    try:
        for line in _lines(stdin, out, err):
            if not chat.hear(line):
                return 0
    except KeyboardInterrupt:
        chat.say("")
        raise
    chat.say("")
    return 0


def _lines(stdin: TextIO, out: TextIO, err: TextIO) -> Iterator[str]:
    """Yield the lines that are typed, until there are no more."""
    if stdin is sys.stdin and stdin.isatty() and out.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  # input() now has a history and arrow keys
        while True:
            try:
                yield input("> ")
            except EOFError:
                return
    while True:
        if stdin.isatty():
            print("> ", end="", file=err, flush=True)
        if not (line := stdin.readline()):
            return
        yield line


class Chat:
    """A conversation and the two streams on which it is shown."""

    def __init__(self, conversation: Conversation, out: TextIO, err: TextIO) -> None:
        self.conversation, self.out, self.err = conversation, out, err

    def say(self, text: str) -> None:
        """Write a line about the conversation, which is no part of it."""
        print(text, file=self.err, flush=True)

    def hear(self, line: str) -> bool:
        """Do what a line asks for; return whether to go on."""
        from tinyllm.text.tokenizer import TokenizerError

        line = line.encode(errors="replace").decode().strip()  # what was no UTF-8 becomes ?
        if found := re.fullmatch(r"[:：]\s*([A-Za-z]\w*)\s*(.*)", line, re.DOTALL):
            return self._command(found[1].lower(), found[2])
        if line:
            try:
                self.ask(line)
            except KeyboardInterrupt:
                self.say("(stopped)")
            except TokenizerError as error:
                self.say(f"(no answer: {error})")
        return True

    def ask(self, question: str) -> None:
        """Answer a question on stdout, piece by piece, and remember what was said, even if interrupted."""
        talk, answer = self.conversation, ""
        before = talk.first if talk.memory is None else -1  # else forgetting is what was asked for
        prompt = talk.prompt(question)
        if before == 0 < talk.first:
            self.say("(the conversation no longer fits the model's window: its oldest turns are forgotten)")
        if prompt.size > talk.model.config.block_size:
            self.say("(the question is longer than the model's window: only its end is seen)")
        try:
            for piece in talk.answer(prompt):
                answer += piece
                self.out.write(piece)
                self.out.flush()
        finally:
            talk.remember(question, answer)
            if answer:
                self.out.write("\n")
                self.out.flush()
        if not answer:
            self.say(
                "(no answer: the model wrote white space or a question of its own; ask again in other words)"
            )

    def _command(self, name: str, rest: str) -> bool:
        if name in ("exit", "quit") and not rest:
            return False
        if name == "help" and not rest:
            self.say(COMMANDS)
        elif name == "clear" and not rest:
            self.conversation.clear()
            self.say("(the conversation begins anew)")
        elif name == "set":
            self._set(rest)
        elif name == "save":
            self._save(rest)
        else:
            self.say(f":{name} {rest}".rstrip() + " is no command; :help shows them")
        return True

    def _set(self, rest: str) -> None:
        words = [word for word in re.split(r"[=＝\s]+", rest) if word]
        names, values = [name.replace("-", "_") for name in words[::2]], words[1::2]
        try:
            if unknown := [name for name in names if name not in OPTIONS]:
                raise ConfigError(f"{unknown[0]}: expected one of {', '.join(OPTIONS)}")
            if len(names) > len(values):
                raise ConfigError(f"{names[-1]}: expected a value, as in :set {names[-1]}=1")
            changes: dict[str, Any] = {
                name: _number(name, value) for name, value in zip(names, values, strict=True)
            }
            self.conversation.sampling = dataclasses.replace(self.conversation.sampling, **changes)
        except ConfigError as error:
            self.say(f"not changed: {error}")
            return
        now = dataclasses.asdict(self.conversation.sampling)
        self.say("  ".join(f"{name}={value:g}" for name, value in now.items()))

    def _save(self, rest: str) -> None:
        """Write the transcript to a new file; the name of an existing one, such as a model, is refused."""
        if not rest:
            self.say("not saved: expected a path, as in :save talk.json")
            return
        try:
            path = Path(rest).expanduser()
            with path.open("x", encoding="utf-8", errors="replace") as file:
                file.write(transcript(self.conversation, path.suffix.lower()))
        except FileExistsError:
            self.say(f"not saved: {rest} exists; choose another name")
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: there is no such ~user
            self.say(f"not saved: {rest}: {getattr(error, 'strerror', None) or error}")
        else:
            self.say(f"saved to {path}")


def transcript(conversation: Conversation, suffix: str) -> str:
    """Return all turns: .json and .jsonl as `tinyllm.train --chat-data` reads them, else as text."""
    from tinyllm.text.dialogue import render

    turns = conversation.turns
    entry = {"messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
    if suffix == ".json":
        return json.dumps([entry], ensure_ascii=False, indent=1) + "\n"
    if suffix == ".jsonl":
        return json.dumps(entry, ensure_ascii=False) + "\n"
    exchanges = (render(turns[i : i + 2]) for i in range(0, len(turns), 2))
    return "".join("".join(segment.text for segment in segments) + "\n" for segments in exchanges)


def _number(name: str, text: str) -> Any:
    kind = type(getattr(DEFAULTS, name))
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name}: found {text!r}, expected {what}") from None


if __name__ == "__main__":
    sys.exit(program(main))
