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
    """All turns so far; those from `first` on are what the model still sees.

    It sees `memory` earlier questions with their answers, or all that fit.
    """

    def __init__(
        self, model: LanguageModel, sampling: Sampling, max_tokens: int, seed: int, memory: int | None = None
    ) -> None:
        self.model, self.sampling, self.max_tokens, self.seed = model, sampling, max_tokens, seed
        self.memory = memory
        self.decoder = model.decoder()
        self.clear()

    def clear(self) -> None:
        """Begin anew, as if nothing had been said."""
        self.turns: list[Turn] = []
        self.first = self.asked = 0

    def prompt(self, question: str) -> Array:
        """Return the tokens (n,) int32 after which the model answers; moves `first` on until they fit.

        They leave a quarter of the window (or max_tokens) free for the answer. A longer answer makes the
        window slide, as in `decode.extend`; so does a question that alone is too long.
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
        """Yield the answer to `prompt(question)` (n,) in pieces, each as soon as it is sure to belong to it.

        The answer ends with end_of_text, at max_tokens, or before a marker of the next question. It does
        not end before its first token.
        """
        address = (self.seed, self.asked)
        self.asked += 1  # whatever comes of it: to ask again is to draw anew
        tokens = self.model.write(
            prompt, self.sampling, self.max_tokens, address, at_least=1, decoder=self.decoder
        )
        return until_marker(self.model.tokenizer.stream(tokens))

    def remember(self, question: str, answer: str) -> None:
        """Add both to the turns; without an answer, neither."""
        if answer:
            self.turns += [Turn("user", question), Turn("assistant", answer)]


def answer(
    model: LanguageModel, question: str, sampling: Sampling = GREEDY, max_tokens: int = 64, seed: int = 0
) -> str:
    """Return the model's whole answer to one question; "" if it says nothing but white space."""
    conversation = Conversation(model, sampling, max_tokens, seed)
    return "".join(conversation.answer(conversation.prompt(question)))


def until_marker(pieces: Iterable[str], markers: tuple[str, ...] = STOP_MARKERS) -> Iterator[str]:
    """Yield the text of `pieces` up to the first marker, without the white space around it.

    Held back is only what may be the beginning of a marker, or white space at the end.
    """
    held, begun = "", False
    for piece in pieces:
        held += piece
        if not begun:
            held = held.lstrip()
        found = [place for marker in markers if (place := held.find(marker)) >= 0]
        if found:
            held = held[: min(found)]
            break
        ready = held[: len(held) - _marker_begun(held, markers)].rstrip()
        if ready:
            yield ready
            held, begun = held[len(ready) :], True
    if rest := held.rstrip():
        yield rest


def _marker_begun(text: str, markers: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` are the beginning of a marker."""
    lengths = (n for marker in markers for n in range(1, len(marker)) if text.endswith(marker[:n]))
    return max(lengths, default=0)
