# PYTHON_ARGCOMPLETE_OK
"""Talk to a model: `python -m tinyllm.chat MODEL`; answers are written to stdout, everything else to stderr.

No line that is typed ends the program but exit and its synonyms, the end of the input, and Ctrl-C at the
prompt. Order: options, the questions, the commands, main.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllm import __version__
from tinyllm.cli import command, typed
from tinyllm.cli.arguments import add_writing, checked_sampling, program
from tinyllm.cli.interrupt import exit_code
from tinyllm.escape import printable, printable_lines
from tinyllm.inference.settings import ANSWER, OPTIONS, check
from tinyllm.option import ConfigError
from tinyllm.words import LineBreaks, counted

if TYPE_CHECKING:
    from tinyllm.inference.conversation import Conversation

DESCRIPTION = """\
Talk to a model. It sees the last questions and answers: --memory of them,
or as many as fit its context window. An answer ends where the model ends it,
or at --max-tokens; Ctrl-C ends it early."""
EXAMPLES = """\
checkpoints
checkpoints --prompt "Hello" --temperature 0.7"""
COMMANDS = """\
help             show these commands, as do :help and 帮助
:set NAME=VALUE  change a sampling option, such as top_p; alone: show them
:save PATH       save the conversation to a new file: .json or .jsonl as
                 training data, else text
:clear           forget the conversation
:system TEXT     put this text before the conversation, - for none; alone:
                 show it
exit             end the program, as do :exit, quit, bye, 退出, 再见 and
                 Ctrl-D; Ctrl-C ends an answer"""
# What a person types who knows no command, alone on its line; no model is asked about these words.
BARE = dict.fromkeys(("exit", "quit", "bye", "退出", "再见"), "exit") | dict.fromkeys(
    ("help", "帮助"), "help"
)


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse, check and add `sampling`; any mistake ends the program with exit code 2 and a message."""
    parser = program("chat", DESCRIPTION, EXAMPLES, epilog="commands:\n" + COMMANDS)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="answer this one question and exit; - reads it from stdin"
    )
    parser.add_argument(
        "--memory", type=int, metavar="N",
        help="earlier questions and answers that the model sees; 0 suits a model trained on single questions "
        "(default: 1 for the bundled texts, else all that fit the context window)",
    )  # fmt: skip
    parser.add_argument(
        "--system", metavar="TEXT",
        help='a text that stands before the conversation; "" for none (default: the one of the training '
        "dialogues, if all share one)",
    )  # fmt: skip
    add_writing(parser, ANSWER, max_tokens=128, phase="instruction tuning")
    args = parser.parse_args(argv)
    try:
        args.sampling = checked_sampling(args, ANSWER)
        if args.memory is not None:
            check("memory", args.memory, low=0)
    except ConfigError as error:
        parser.error(str(error))
    return args


def _run(args: argparse.Namespace, streams: command.Streams) -> int:
    from tinyllm.inference.conversation import Conversation

    question = None if args.prompt is None else command.text_of(args.prompt, streams.stdin).strip()
    if question == "":
        raise ConfigError("--prompt: found no text, expected a question")
    model = command.load(args.model, args.blas_threads, streams, "instruction_tuning")
    conversation = Conversation(model, args.sampling, args.max_tokens, args.seed, args.memory)
    chat = Chat(conversation, streams)
    if args.system is not None:
        conversation.system = checked_system(conversation, args.system)
    else:
        chat.note_system()
    if question is not None:
        chat.ask(question)
        return 0
    chat.say(
        f"tinyllm {__version__}: {args.model}, context window of {counted(model.config.block_size, 'token')}"
    )
    chat.note_questions()
    chat.say("help lists the commands, :clear forgets the conversation, exit ends the chat")
    try:
        for line in typed.lines(*streams):
            if not chat.respond(line):
                return 0
    except KeyboardInterrupt:
        chat.say("")
        raise
    chat.say("")
    return 0


class Chat:
    """A conversation and the streams on which it is shown."""

    def __init__(self, conversation: Conversation, streams: command.Streams) -> None:
        self.conversation, self.streams = conversation, streams

    def say(self, text: str) -> None:
        """Write a line, or several, about the conversation that are not part of it."""
        print(printable_lines(text), file=self.streams.err, flush=True)

    def respond(self, line: str) -> bool:
        """Run the command or answer the question that a line is; return whether to read another."""
        from tinyllm.text.tokenizer import TokenizerError

        line = line.encode(errors="replace").decode().strip()  # what was not UTF-8 becomes ?
        if found := re.fullmatch(r"[:：]\s*([A-Za-z]\w*)\s*(.*)", line, re.DOTALL):
            return self._command(found[1].lower(), found[2])
        if command := BARE.get(line.lower().rstrip("!！.。~～ ")):
            return self._command(command, "")
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
        breaks = LineBreaks(shutil.get_terminal_size().columns if self.streams.out.isatty() else None)
        before = talk.first if talk.memory is None else -1  # else forgetting is what was asked for
        prompt = talk.prompt(question)
        if before == 0 < talk.first:
            self.say("(the conversation no longer fits the context window: its oldest turns are forgotten)")
        if prompt.size > talk.model.config.block_size:
            self.say("(the question is longer than the context window: the model sees only its end)")
        try:
            for piece in talk.answer(prompt):
                answer += piece
                self.streams.write(breaks.add(piece))
                self.streams.out.flush()
        finally:
            talk.remember(question, answer)
            if answer:
                self.streams.write(breaks.end() + "\n")
                self.streams.out.flush()
        if not answer:
            self.say("(no answer: the model wrote only white space or a question of its own; try rephrasing)")

    def _command(self, name: str, rest: str) -> bool:
        if name in ("exit", "quit") and not rest:
            return False
        if name == "help" and not rest:
            self.say(COMMANDS)
        elif name == "clear" and not rest:
            self.conversation.clear()
            self.say("(the conversation is forgotten)")
        elif name == "set":
            self._set(rest)
        elif name == "save":
            self._save(rest)
        elif name == "system":
            self._system(rest)
        else:
            self.say(f":{name} {rest}".rstrip() + " is not a command; :help lists them")
        return True

    def note_system(self) -> None:
        """Show the system text that is used, or cannot be, without having been given."""
        text = self.conversation.model.form.system
        used = "leaves no room in the context window" if not self.conversation.system else "is used"
        if text:
            self.say(f"(the system text of the training dialogues {used}: {_quoted(text)})")

    def note_questions(self) -> None:
        """Show a few questions of the training dialogues, where the model knows any: what it was taught."""
        if questions := self.conversation.model.form.questions:
            self.say("\n".join(["questions to try:", *(f"  {question}" for question in questions[:3])]))

    def _system(self, rest: str) -> None:
        if rest:
            try:
                self.conversation.system = checked_system(self.conversation, "" if rest == "-" else rest)
            except ConfigError as error:
                self.say(f"not changed: {error}")
                return
        text = self.conversation.system
        self.say(f"system text: {_quoted(text)}" if text else "no system text")

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


def checked_system(conversation: Conversation, text: str) -> str:
    """Return a system text without the white space around it; ConfigError if the model cannot read it."""
    from tinyllm.text.tokenizer import TokenizerError

    text = text.strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("--system: found bytes that are not UTF-8")
    try:
        fits = conversation.has_room_for(text)
    except TokenizerError as error:
        raise ConfigError(f"--system: {error}") from error
    if not fits:
        raise ConfigError(
            f"--system: found {counted(len(text), 'character')}, expected a text that leaves room for a "
            f"question in the context window of {counted(conversation.model.config.block_size, 'token')}"
        )
    return text


def _quoted(text: str) -> str:
    """Return the beginning of a text as one line in quotes, without anything that a terminal would obey."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f'"{printable(shown)}"'


def transcript(conversation: Conversation, suffix: str) -> str:
    """Return all turns: .json and .jsonl as `tinyllm.train --chat-data` reads them, else as text."""
    from tinyllm.text.dialogue import Turn, render

    turns = conversation.turns
    system = [Turn("system", conversation.system)] if conversation.system else []
    entry = {"messages": [{"role": turn.role, "content": turn.content} for turn in (*system, *turns)]}
    if suffix == ".json":
        return json.dumps([entry], ensure_ascii=False, indent=1) + "\n"
    if suffix == ".jsonl":
        return json.dumps(entry, ensure_ascii=False) + "\n"
    exchanges = (render([*system, *turns[i : i + 2]]) for i in range(0, len(turns), 2))
    return "".join("".join(segment.text for segment in segments) + "\n" for segments in exchanges)


def _number(name: str, text: str) -> Any:
    kind = type(getattr(ANSWER, name))
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name}: found {text!r}, expected {what}") from None


main = command.door(options, _run, lambda args: args.blas_threads)


if __name__ == "__main__":
    sys.exit(exit_code(main))
