"""What a finished model says, line by line: its answers to each kind of question, and a text of its own.

Order: the lines of a run with dialogues, those of one without, one exchange.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from tinyllm.config import is_bundled
from tinyllm.corpus import world
from tinyllm.escape import legible
from tinyllm.inference import samples
from tinyllm.inference.exam import Answer, exam
from tinyllm.inference.language_model import LanguageModel, load_model
from tinyllm.inference.settings import TEXT
from tinyllm.run.state import TrainState
from tinyllm.text.questions import spread
from tinyllm.training import setup
from tinyllm.words import shortened

SHOWN = 5  # exchanges of each kind, evenly spread, so that both languages are among them
LONGEST = 100  # characters of an answer
QUESTIONS = {True: 50, False: 10}  # of each kind; for the bundled world, and for other texts
NOTES = {"never asked in training": " (facts seen as statements only)"}


def last_words(state: TrainState, directory: Path, held_out: Container[int] = ()) -> Iterator[str]:
    """Yield what the finished model of a run answers to questions, and what it writes by itself.

    `held_out` has the numbers of the last phase's documents that were not trained on.
    """
    phase, model = state.phases[-1], LanguageModel.of(state)
    paths = state.sources[phase].paths
    texts = setup.open_texts(state.config, phase, paths)
    if phase == "pretraining":
        yield "sample continuation:"
        beginning, rest = samples.sample_continuation(model, texts, state.config.train.seed)
        yield f"  {legible(f'{beginning}|{rest}')}"
        return
    bundled = is_bundled(phase, paths)
    facts = world.facts() if bundled else []
    for part in exam(model, texts, facts, QUESTIONS[bundled], held_out):
        yield f"{part.name}: {part.right} of {len(part.answers)}{NOTES.get(part.name, '')}"
        yield from (f"  {_exchange(answer)}" for answer in spread(part.answers, SHOWN))
    if "pretraining" in state.phases:
        yield "free text, as generate writes it:"
        writer = load_model(directory, phase="pretraining")
        for i in range(SHOWN):
            text = samples.continuation(writer, "", TEXT, 80, (state.config.train.seed, i))
            yield f"  {shortened(legible(' '.join(text.split())), LONGEST)}"


def _exchange(answer: Answer) -> str:
    said = answer.said if len(answer.said) <= LONGEST else answer.said[:LONGEST] + " ..."
    return legible(f"{answer.question.turns[-1].content} → {said}".replace("\n", " "))
