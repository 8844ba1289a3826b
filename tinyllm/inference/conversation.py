"""A conversation with a model: the turns so far, as many of them as fit, and the next answer.

Order: Conversation, one answer alone, the end of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tinyllm.arena import Array
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY, Sampling
from tinyllm.text.dialogue import STOP_MARKERS, Turn


class Conversation:
    """All turns so far; the model sees those from number `first`, behind the `system` text.

    These are `memory` earlier questions with their answers: by default what suits the model's texts, or else
    as many as fit. Unless it is set, the system text is that of the training dialogues.
    """

    def __init__(
        self, model: LanguageModel, sampling: Sampling, max_tokens: int, seed: int, memory: int | None = None
    ) -> None:
        self.model, self.sampling, self.max_tokens, self.seed = model, sampling, max_tokens, seed
        self.memory = model.form.earlier if memory is None else memory
        self.system = model.form.system if self.has_room_for(model.form.system) else ""
        self.decoder = model.decoder()
        self.clear()

    def clear(self) -> None:
        """Forget all turns."""
        self.turns: list[Turn] = []
        self.first = self.asked = 0

    def prompt(self, question: str) -> Array:
        """Return the tokens (n,) int32 that the model answers; drops the oldest turns until they fit.

        They leave a quarter of the window (or max_tokens) free for the answer. A longer answer makes the
        window slide, as in `decode.extend`; so does a single question that is too long.
        """
        room = self.room
        if self.memory is not None:
            self.first = max(self.first, len(self.turns) - 2 * self.memory)
        while True:
            tokens = self._encoded([*self.turns[self.first :], Turn("user", question)])
            if tokens.size <= room or self.first == len(self.turns):
                return tokens
            self.first += 2

    @property
    def room(self) -> int:
        """How many tokens of the window a prompt may fill."""
        T = self.model.config.block_size
        return T - min(self.max_tokens, T // 4)

    def has_room_for(self, system: str) -> bool:
        """Return whether a question can follow a system text; TokenizerError as for `encode`."""
        return not system or len(self.model.tokenizer.encode(f"{system}\n")) < self.room

    def _encoded(self, turns: list[Turn]) -> Array:
        """Return the tokens (n,) int32 of the prompt for an answer to the last of `turns`."""
        return self.model.question([Turn("system", self.system), *turns] if self.system else turns)

    def answer(self, prompt: Array) -> Iterator[str]:
        """Yield the answer to `prompt(question)` (n,) in pieces, each as soon as it is certain.

        The answer ends with end_of_text, at max_tokens, or where the model begins the next question. It has
        at least one token.
        """
        address = (self.seed, self.asked)
        self.asked += 1  # even if it is interrupted: the same question then gets another answer
        tokens = self.model.generate(
            prompt, self.sampling, self.max_tokens, address, min_tokens=1, decoder=self.decoder
        )
        return until_marker(self.model.tokenizer.stream(tokens))

    def remember(self, question: str, answer: str) -> None:
        """Add both to the turns, or neither if the answer is empty."""
        if answer:
            self.turns += [Turn("user", question), Turn("assistant", answer)]


def answer(
    model: LanguageModel, question: str, sampling: Sampling = GREEDY, max_tokens: int = 64, seed: int = 0
) -> str:
    """Return the model's whole answer to one question; "" if it is only white space."""
    conversation = Conversation(model, sampling, max_tokens, seed)
    return "".join(conversation.answer(conversation.prompt(question)))


# What stands before the marker of a turn: the end of a line or of a sentence, with the quotes and brackets
# that close after it. A full stop must be followed by a space: "account.User:" is one word.
_TURN_MAY_BEGIN = re.compile(r"""(?:\n|[。！？…!?]["'”’」』）)]*|\.["'”’)]*[ \t])\s*\Z""")


def until_marker(pieces: Iterable[str], markers: tuple[str, ...] = STOP_MARKERS) -> Iterator[str]:
    """Yield the text of `pieces` before the first marker that begins a turn, without white space around it.

    A turn begins on a line of its own or after a whole sentence; elsewhere a marker is part of the answer, as
    in "SuperUser: root". Only what may be the start of a marker, or white space at the end, is held back.
    """
    before, pending = "\n", ""  # the end of what was yielded, or the beginning of the first line; the rest
    for piece in pieces:
        pending += piece
        if before == "\n":
            pending = pending.lstrip()
        places = (found.start() for marker in markers for found in re.finditer(re.escape(marker), pending))
        turns = [place for place in places if _TURN_MAY_BEGIN.search(before + pending[:place])]
        if turns:
            pending = pending[: min(turns)]
            break
        ready = pending[: len(pending) - _partial_marker(before, pending, markers)].rstrip()
        if ready:
            yield ready
            before, pending = (before + ready)[-16:], pending[len(ready) :]
    if rest := pending.rstrip():
        yield rest


def _partial_marker(before: str, text: str, markers: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` are the start of a marker that would begin a turn."""
    lengths = (n for marker in markers for n in range(1, len(marker)) if text.endswith(marker[:n]))
    return max((n for n in lengths if _TURN_MAY_BEGIN.search(before + text[: len(text) - n])), default=0)
