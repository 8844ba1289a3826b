"""A conversation with a model: the turns so far, as many of them as fit, and the next answer.

Order: Conversation, one answer alone, the end of an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tinyllm.arena import Array
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.settings import GREEDY, Sampling
from tinyllm.text.dialogue import STOP_MARKERS, Turn, encode, prompt_for


class Conversation:
    """All turns so far; the model sees those from number `first`.

    These are `memory` earlier questions with their answers, or as many as fit.
    """

    def __init__(
        self, model: LanguageModel, sampling: Sampling, max_tokens: int, seed: int, memory: int | None = None
    ) -> None:
        self.model, self.sampling, self.max_tokens, self.seed = model, sampling, max_tokens, seed
        self.memory = memory
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
        T = self.model.config.block_size
        room = T - min(self.max_tokens, T // 4)
        if self.memory is not None:
            self.first = max(self.first, len(self.turns) - 2 * self.memory)
        while True:
            turns = [*self.turns[self.first :], Turn("user", question)]
            tokens, _ = encode(self.model.tokenizer, prompt_for(turns))
            if tokens.size <= room or self.first == len(self.turns):
                return tokens
            self.first += 2

    def answer(self, prompt: Array) -> Iterator[str]:
        """Yield the answer to `prompt(question)` (n,) in pieces, each as soon as it is certain.

        The answer ends with end_of_text, at max_tokens, or before a marker of the next question. It has at
        least one token.
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


def until_marker(pieces: Iterable[str], markers: tuple[str, ...] = STOP_MARKERS) -> Iterator[str]:
    """Yield the text of `pieces` up to the first marker, without the white space around it.

    Only what may be the start of a marker, or white space at the end, is held back.
    """
    pending, begun = "", False
    for piece in pieces:
        pending += piece
        if not begun:
            pending = pending.lstrip()
        found = [start for marker in markers if (start := pending.find(marker)) >= 0]
        if found:
            pending = pending[: min(found)]
            break
        ready = pending[: len(pending) - _partial_marker(pending, markers)].rstrip()
        if ready:
            yield ready
            pending, begun = pending[len(ready) :], True
    if rest := pending.rstrip():
        yield rest


def _partial_marker(text: str, markers: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` are the start of a marker."""
    lengths = (n for marker in markers for n in range(1, len(marker)) if text.endswith(marker[:n]))
    return max(lengths, default=0)
