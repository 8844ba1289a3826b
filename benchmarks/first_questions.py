"""The first questions of a person, put to a trained model: `python -m benchmarks.first_questions RUN`.

Fifty drawn facts for each kind and language, asked in words of this file where that is what is measured; then
forty things that people type, as they type them, for a reader to judge. The same model gives the same
answers. Order: what is typed, the counts, main.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tinyllm.corpus import world
from tinyllm.inference.exam import Question, ask, ask_after_another
from tinyllm.inference.language_model import LanguageModel, load_model
from tinyllm.rng import generator
from tinyllm.text.dialogue import Turn

COUNT = 50
# Words around a question, in which neither the corpus nor --vary-questions asks it.
AROUND = {
    "en": ("Tell me, {}", "I would like to know: {}", "{} Please answer.", "A question: {}"),
    "zh": ("请告诉我，{}", "我想知道{}", "你知道吗，{}", "问一下，{}"),
}
TYPED = (
    "Hello", "hi", "hey there", "Good morning", "who r u", "What is your name", "how are you",
    "thanks", "Bye", "can you help me?", "tell me a joke", "capital of france",
    "What is the capital of Japan?", "where is brazil", "What does a panda eat?",
    "how many legs does a spider have", "what is 3 + 4", "7 x 8", "Whats the opposite of hot",
    "What is the meaning of life?", "Who won the game last night?", "你好", "hello 你好", "在吗",
    "你是谁", "你叫什么名字？", "谢谢", "再见啦", "讲个笑话", "法国的首都是哪里?", "日本在哪里",
    "什么是算法", "算法是什么?", "1+1等于几", "6乘7等于多少？", "熊猫吃什么", "一分钟有多少秒",
    "“大”的反义词是什么", "今天股票怎么样", "你喜欢我吗",
)  # fmt: skip


def drawn(facts: Sequence[world.Fact], kind: str, forms: str) -> list[Question]:
    """Return questions about COUNT of the facts, in the forms of that name, or `around` them."""
    rng, questions = generator(1, "first questions", kind), []
    for i in rng.permutation(len(facts))[:COUNT]:
        fact = facts[i]
        asked = fact.otherwise if forms == "otherwise" else fact.asked
        text = asked[rng.integers(len(asked))]
        if forms == "around":
            text = AROUND[fact.language][rng.integers(4)].format(text)
        questions.append(Question((Turn("user", text),), fact.right, exact=True))
    return questions


def count(model: LanguageModel, facts: Sequence[world.Fact], language: str) -> None:
    """Print how many answers of each kind are right, and some that are not."""
    of_language = [fact for fact in facts if fact.language == language]
    asked = [fact for fact in of_language if fact.is_asked]
    rest = [fact for fact in of_language if not fact.is_asked]
    kinds = {
        "trained questions": ask(model, drawn(asked, "trained", "asked")),
        "in other words": ask(model, drawn(asked, "other", "otherwise")),
        "with words around them": ask(model, drawn(asked, "around", "around")),
        "after another question": ask_after_another(model, drawn(asked, "after", "asked")),
        "never asked in training": ask(model, drawn(rest, "never", "asked")),
    }
    for name, answers in kinds.items():
        wrong = [answer for answer in answers if not answer.is_right]
        print(f"{language}  {name}: {len(answers) - len(wrong)} of {len(answers)}", flush=True)
        for answer in wrong[:3]:
            print(f"      {answer.question.turns[-1].content} {answer.said}")


def main() -> None:
    """Print the counts, then the forty exchanges."""
    model, facts = load_model(Path(sys.argv[1])), world.facts()
    for language in world.LANGUAGES:
        count(model, facts, language)
    for answer in ask(model, [Question((Turn("user", text),), ("",)) for text in TYPED]):
        print(f"{answer.question.turns[0].content}  ->  {answer.said}", flush=True)


if __name__ == "__main__":
    main()
