"""A question has several forms that a person may type, and each asks the same.

With its mark or without, in half width, in lower case, after 请问; 什么是 for 是什么, what's for what is.
Forms are a function of the text alone. They keep the language of the question, which chooses the markers
(dialogue.py): so the answer has the same tokens behind each. A question that is no plain sentence, such as
code or a quotation, changes only its last mark, since its letters may matter. Order: tables, variants of a
dialogue, forms of a question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tinyllm.text.dialogue import Turn, is_chinese

LONGEST = 80  # characters of a question that has other forms

_HALF = str.maketrans("，？！。；：", ",?!.;:")
_MARK = re.compile(r"(?<![？?！!。.…,，])[？?！!。.]$")  # one mark at the end: "..." and "?!" are left alone
_PLAIN = {  # letters, digits, and marks that quote no letter
    True: re.compile(r"[A-Za-z0-9 ,+\-\u3400-\u9fff，、·《》“”]+"), False: re.compile(r"[A-Za-z0-9 ,'’+\-]+"),
}  # fmt: skip
_ASKS = {
    True: re.compile("什么|谁|哪|几|多少|多[大长高远久重]|怎么|怎样|如何|为何|是否|是不是|有没有|[吗呢]$"),
    False: re.compile(
        "(what|who|whom|whose|where|when|why|how|which|is|are|was|were|do|does|did|can|could|has|have|will"
        "|would|should)('s|’s)? ", re.I,
    ),
}  # fmt: skip
# Greetings, thanks, follow-up questions, requests that begin with a verb: 请问 does not stand before them.
_NO_PLEASE = re.compile(
    "请|你好|您好|[嗨喂]|早上好|早安|晚上好|晚安|谢|那|它|他|她|还|再|又|可是|但|不过|所以|然后"
    "|而|如果|为什么呢|怎么会|好[的吧]|[帮给把教讲说写]|翻译|解释|介绍|推荐|告诉|列"
)  # fmt: skip
# X in 什么是X is a name or a notion: no pronoun, nothing that asks, no adverb that belongs to 是 at its end.
_X = "(?![你您我他她它这那])([^，的什谁哪几]{1,16}?)(?<![到究都就也不还又才只便算竟底若要])"
_TURNED = [
    (re.compile(f"什么是 ?{_X}"), ["{}是什么", "什么叫{}", "{}是啥"]),
    (re.compile(f"什么叫 ?{_X}"), ["什么是{}", "{}是什么"]),
    (re.compile(f"{_X} ?是什么"), ["什么是{}", "{}是啥"]),
    (re.compile("(.+的.+?) ?是什么"), ["{}是啥"]),
    (re.compile("(.+?) ?是什么意思"), ["{}什么意思", "{}是啥意思"]),
    (re.compile(f"{_X} ?是谁"), ["谁是{}"]),
    (re.compile(f"谁是 ?{_X}"), ["{}是谁"]),
    (re.compile("(.+)在哪里"), ["{}在哪", "{}在哪儿"]),
]
# How something is done, not why or how it is.
_HOW = re.compile("(怎么|怎样|如何)(?=[^了样办会这那还就又回啦能可能不没个着的一连总老都突呢吗吧，])")
_HOW_ELSE = {"怎么": ["如何"], "怎样": ["怎么", "如何"], "如何": ["怎么"]}
_IS = re.compile("(what|who|where|how) is (?!(?:he|she|it|they|this|that|there|you|i|we)$)(.+)", re.I)
_S = re.compile("(what|who|where|how)['’]s (.+)", re.I)


def variants(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Return the dialogue with its questions in other forms, as often as one of them has another form.

    Of a question with fewer forms, they are repeated.
    """
    asked = [forms(content) if role == "user" else (content,) for role, content in turns]
    return [
        tuple(Turn(role, each[i % len(each)]) for (role, _), each in zip(turns, asked, strict=True))
        for i in range(1, max(map(len, asked)))
    ]


def forms(question: str) -> tuple[str, ...]:
    """Return the forms of a question, the question itself first, no two equal; at most eleven.

    Example: 谁是李白 -> 谁是李白 谁是李白？ 谁是李白? 请问谁是李白？ 请问谁是李白 李白是谁？ 李白是谁
    """
    if len(question) > LONGEST or "\n" in question:
        return (question,)
    mark = _MARK.search(question)
    body = question[: mark.start()].rstrip() if mark else question
    chinese = is_chinese(body)
    if not body or chinese != is_chinese(question):
        return (question,)
    plain = _PLAIN[chinese].fullmatch(body) is not None
    asks = _ASKS[chinese].search(body) if chinese else _ASKS[chinese].match(body)
    usual = ("？。" if chinese else "?.")[asks is None]
    end = mark[0] if mark else usual if plain else ""
    found = [body, body + end, body + end.translate(_HALF)]
    if plain:
        found += _chinese(body, end, asks is not None) if chinese else _english(body, end)
    # One that had the markers of the other language would not have the same answer, token for token.
    return tuple(dict.fromkeys([question, *(each for each in found if is_chinese(each) == chinese)]))


def _chinese(body: str, end: str, asks: bool) -> Iterator[str]:
    """Yield a plain sentence after 请问, in half width, and with other words for the question."""
    if asks and not _NO_PLEASE.match(body):
        yield f"请问{_space(body[0])}{body}{end}"
        yield f"请问{_space(body[0])}{body}"
    if "，" in body:
        yield (body + end).translate(_HALF)
    for turned in _turned(body):
        yield turned + end
        yield turned


def _turned(body: str) -> list[str]:
    """Return the same question in other words."""
    for pattern, others in _TURNED:
        if found := pattern.fullmatch(body):
            x = found[1]
            before_x, after_x = _space(x[0]), _space(x[-1])
            return [
                other.format(
                    (before_x if other[0] != "{" else "") + x + (after_x if other[-1] != "}" else "")
                )
                for other in others
            ]
    how = _HOW.findall(body)
    return [body.replace(how[0], other) for other in _HOW_ELSE[how[0]]] if len(how) == 1 else []


def _space(letter: str) -> str:
    """Return what stands between a character and the Chinese beside it."""
    return " " if letter.isascii() and letter.isalpha() else ""


def _english(body: str, end: str) -> Iterator[str]:
    """Yield a plain sentence in lower case, and with "is" contracted or in full."""
    yield body.lower() + end
    yield body.lower()
    yield body[0].lower() + body[1:]
    if _IS.fullmatch(body) or _S.fullmatch(body):
        other = _IS.sub(r"\1's \2", body) if _IS.fullmatch(body) else _S.sub(r"\1 is \2", body)
        yield other + end
        yield other
        yield other.lower()
