"""An epoch has every dialogue once, in a form and a conversation that are drawn for it, in windows that stay.

Order: what a joined conversation is, what an epoch holds, groups, purity, runs from before.
"""

from __future__ import annotations

import tracemalloc
import zlib
from collections import Counter
from itertools import chain, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_data import CHARACTERS, END, FIRST, config
from tinyllm.config import Config, DataConfig
from tinyllm.text.batches import Batch, prepare
from tinyllm.text.dialogue import Segment, Turn, can_join, encode, joined, render
from tinyllm.text.files import DataError
from tinyllm.text.forms import variants
from tinyllm.text.records import Reading
from tinyllm.text.texts import Text, Texts, digest, strings
from tinyllm.text.tokens import ALTERNATIVE, JOINS, load_tokens

NAMES = [chr(FIRST + i) for i in range(300)]
ON = {"join_dialogues": True, "vary_questions": True}
OFF = {"join_dialogues": False, "vary_questions": False}


def text_of(turns, **options):
    """Return the document that `Texts` makes of turns."""
    return Texts((), dialogues=True, data=DataConfig(**options))._dialogue(tuple(turns))


def chat(*pairs, system=""):
    """Return turns of questions and answers, and of a system text."""
    turns = [turn for asked, said in pairs for turn in (Turn("user", asked), Turn("assistant", said))]
    return ([Turn("system", system)] if system else []) + turns


def single(i):
    """Return a dialogue in Chinese or English of a length of its own kind, like no other."""
    if i % 3:
        return chat((f"什么是{NAMES[i]}？", NAMES[i] * (1 + i % 4)))
    return chat((f"What is {NAMES[i]} {i}?".replace(NAMES[i], f"x{i}"), f"y{i}" * (1 + i % 2)))


def prepared(dialogues, folder, T, more=(), seed=1, **options):
    data = {key: options[key] for key in (*ON, "separate_markers") if key in options}
    texts = [text_of(turns, **data) for turns in dialogues] + list(more)
    return prepare(texts, CHARACTERS, config(T, seed, **options), folder, "instruction_tuning")


def conversations(data, epoch=0, seed=1, batch_size=3):
    """Yield the (tokens, targets) of each document in an epoch's windows, as they are joined."""
    for index in range(-(-data.windows // batch_size)):
        batch = data.batch(seed, epoch, index, batch_size)
        for tokens, targets, starts in zip(*batch[:3], strict=True):
            for start in np.unique(starts):
                here = starts == start
                if tokens[start] or targets[start] >= 0:  # no padding
                    yield tokens[here].tolist(), targets[here].tolist()


def encoded(turns, train_on_prompts=False, separate=True):
    """Return the positions of a conversation and their targets, as dialogue.encode has them."""
    segments = render(turns)
    tokens, masked = encode(CHARACTERS, segments if separate else joined(segments))
    targets = tokens.copy()
    for begin, end in [] if train_on_prompts else zip(masked[::2], masked[1::2], strict=True):
        targets[begin:end] = -1
    return tokens[:-1].tolist(), targets[1:].tolist()


def members(dialogues):
    """Return the number of the dialogue and the turns of each form of all dialogues, by its tokens."""
    return {
        tuple(encoded(form)[0]): (i, form)
        for i, turns in enumerate(dialogues)
        for form in (tuple(turns), *variants(turns))
    }


def taken_apart(tokens, known):
    """Return the dialogues of which a conversation was joined."""
    found, rest = [], tuple(tokens)
    while rest:
        ends = [
            i for i in range(1, len(rest) + 1) if rest[:i] in known and (rest[i:] == () or rest[i] == END)
        ]
        assert ends, rest
        found.append(known[rest[: ends[0]]])
        rest = rest[ends[0] :]
    return found


@st.composite
def corpora(draw):
    """Return numbers of dialogues, some of two turns."""
    singles = draw(st.lists(st.integers(0, 199), min_size=1, max_size=30, unique=True))
    pairs = draw(st.lists(st.integers(200, 250), max_size=3, unique=True))
    return [single(i) for i in singles] + [single(i) + single(i + 1) for i in pairs]


# What a joined conversation is.


@settings(max_examples=40)
@given(corpora(), st.integers(80, 250), st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())
def test_joined_dialogues_are_token_for_token_what_one_conversation_of_their_turns_is(
    tmp_path_factory, dialogues, T, epoch, vary, on_prompts, separate
):  # fmt: skip
    options = {"vary_questions": vary, "train_on_prompts": on_prompts, "separate_markers": separate}
    data = prepared(dialogues, tmp_path_factory.mktemp("data"), T, **options)
    known, seen = members(dialogues), Counter()
    for tokens, targets in conversations(data, epoch):
        parts = taken_apart(tokens, known)
        assert 1 <= len(parts) <= 3
        seen.update(i for i, _ in parts)
        turns = [turn for _, form in parts for turn in form]
        assert (tokens, targets) == encoded(turns, on_prompts, separate)
    assert seen == Counter(range(len(dialogues)))


TURNS = st.sampled_from([Turn("user", "a"), Turn("assistant", "是"), Turn("system", "s")])


@given(st.lists(TURNS, max_size=4), st.sampled_from([single(1), single(3)]))
def test_dialogues_that_can_join_have_the_segments_of_both(turns, other):
    if can_join(turns):
        assert render([*turns, *other]) == render(turns) + render(other)
        assert render([*other, *turns]) == render(other) + render(turns)
    assert can_join(other) and not can_join([])
    assert not can_join([*other, Turn("system", "s"), *other])


# What an epoch holds.


def test_conversations_of_one_two_and_three_are_drawn_and_others_in_another_epoch(tmp_path):
    dialogues = [single(i) for i in range(120)]
    data, known = prepared(dialogues, tmp_path, 128), members(dialogues)
    found = []
    for epoch in range(3):
        parts = [[i for i, _ in taken_apart(tokens, known)] for tokens, _ in conversations(data, epoch)]
        sizes = Counter(map(len, parts))
        assert sizes.keys() == {1, 2, 3} and min(sizes.values()) > 5
        found.append({tuple(part) for part in parts if len(part) > 1})
    assert not found[0] & found[1] and not found[1] & found[2]


@given(st.integers(0, 3), st.booleans(), st.booleans())
def test_documents_that_are_no_dialogues_are_joined_on_request(tmp_path_factory, epoch, join, dialogues_too):
    """Each stands once in an epoch, whole, alone or in a row of up to three."""
    settings = config(60, join_documents=join, join_dialogues=dialogues_too)
    read = Texts((), dialogues=True, data=settings.data)._documents
    plain = [text for i in range(30) for text in read(Reading(NAMES[i] * (2 + i % 3)))]
    texts = [text_of(single(i), join_dialogues=dialogues_too) for i in range(40, 60)] + plain
    drawn = prepare(texts, CHARACTERS, settings, tmp_path_factory.mktemp("data"), "pretraining")
    known = {(END, *map(ord, text.segments[0].text)): i for i, text in enumerate(plain)}
    known |= {tokens: 100 + i for tokens, (i, _) in members(map(single, range(40, 60))).items()}
    rows = [taken_apart(tokens, known) for tokens, _ in conversations(drawn, epoch)]
    assert sorted(chain(*rows)) == [*range(30), *range(100, 120)]
    longest = {kind: max(len(row) for row in rows if (row[0] >= 100) == kind) for kind in (False, True)}
    assert (1 < longest[False] <= 3) == join and (1 < longest[True] <= 3) == (dialogues_too)
    mixed = any({i >= 100 for i in row} == {False, True} for row in rows)
    assert mixed <= (join and dialogues_too)


def test_what_is_no_dialogue_or_has_a_system_text_or_was_cut_is_joined_to_nothing(tmp_path):
    system = [chat((f"什么是{NAMES[i]}？", "是。"), system="简短。") for i in range(8)]
    asked = [[*chat((f"{NAMES[i]}？", "是。")), Turn("user", NAMES[i + 1])] for i in range(10, 14)]
    long = [chat((f"什么是{NAMES[i]}？", NAMES[i] * 150)) for i in range(20, 24)]
    plain = [Text((Segment(NAMES[i] * 9),)) for i in range(30, 38)]
    data = prepared([*system, *asked, *long, *map(single, range(40, 60))], tmp_path, 100, plain)
    alone = {tuple(encoded(turns)[0]) for turns in (*system, *asked)}
    alone |= {(END, *map(ord, text.segments[0].text)) for text in plain}
    for turns in long:
        tokens = tuple(encoded(turns)[0])
        alone |= {tokens[:100], tokens[100:]}
    marks = {ord("简"), *map(ord, NAMES[:40])}
    for epoch in range(3):
        found = {tuple(tokens) for tokens, _ in conversations(data, epoch) if marks & set(tokens)}
        assert found == alone


@given(corpora(), st.integers(20, 120), st.booleans(), st.sampled_from([0.0, 0.3]))
def test_every_target_with_loss_occurs_once_in_every_epoch_and_the_windows_stay(
    tmp_path_factory, dialogues, T, join, fraction
):  # fmt: skip
    folder, found = tmp_path_factory.mktemp("data"), []
    for vary in (False, True):
        options = {"join_dialogues": join, "vary_questions": vary, "val_fraction": fraction}
        try:
            data = prepared(dialogues, folder, T, **options)
        except DataError:
            return
        windows = data.windows
        for epoch in range(3):
            targets = Counter(
                int(token)
                for index in range(-(-windows // 2))
                for token in data.batch(1, epoch, index, 2).targets.flat
                if token >= 0
            )
            assert targets.total() == data.targets and data.windows == windows
            found.append(targets)
        found.append(Counter(int(t) for batch in data.validation(2) for t in batch.targets.flat if t >= 0))
    assert found[0] == found[1] == found[2] == found[4] == found[5] == found[6]
    assert found[3] == found[7]  # the same dialogues are held out, in their first form


def test_joining_alone_changes_no_number_of_windows(tmp_path):
    dialogues = [single(i) for i in range(50)]
    counts = {prepared(dialogues, tmp_path, 64, join_dialogues=join).windows for join in (False, True)}
    assert len(counts) == 1


# Groups.


def test_every_form_is_drawn_in_some_epoch_and_one_in_each(tmp_path):
    dialogues = [single(i) for i in range(6)]
    data, known = prepared(dialogues, tmp_path, 64, **ON), members(dialogues)
    seen = Counter()
    for epoch in range(100):
        seen.update(
            form for tokens, _ in conversations(data, epoch) for _, form in taken_apart(tokens, known)
        )
    assert len(seen) == len(known) and min(seen.values()) >= 2


def test_a_form_that_is_longer_than_a_window_is_never_drawn_and_long_dialogues_have_one(tmp_path):
    turns = chat(("水是什么？", "是水。"))
    T = len(encoded(turns)[0])  # 请问 makes it longer
    data = prepared([turns], tmp_path, T, **ON)
    found = {tuple(tokens) for epoch in range(60) for tokens, _ in conversations(data, epoch)}
    assert data.windows == 1
    assert found == {tokens for tokens in members([turns]) if len(tokens) <= T} and len(found) > 3
    long = prepared([turns], tmp_path, T - 1, **ON)
    assert len({tuple(map(str, conversations(long, epoch))) for epoch in range(20)}) <= 2  # order of pieces


def test_the_counts_of_a_corpus_are_of_its_first_forms(tmp_path):
    dialogues = [single(i) for i in range(9)]
    off, on = (prepared(dialogues, tmp_path, 64, **options) for options in (OFF, ON))
    assert (off.tokens, off.documents, off.targets) == (on.tokens, on.documents, on.targets)
    tokens = load_tokens(tmp_path / "instruction_tuning.tokens", CHARACTERS.vocab_size)
    assert set(tokens.kinds.tolist()) == {JOINS, JOINS | ALTERNATIVE}


def test_a_tokenizer_is_trained_on_what_the_forms_add_once():
    text = text_of(chat(("水是什么？", "是水。")), **ON)
    found = list(strings([text]))
    assert found.count("是水。") == 1 and {"水是什么", "请问水是什么？", "水是啥"} < set(found)


# Purity.


@given(
    corpora(), st.integers(30, 90), st.booleans(),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 5)), max_size=6),
)  # fmt: skip
def test_a_drawn_batch_depends_on_its_address_and_not_on_what_was_asked_before(
    tmp_path_factory, dialogues, T, vary, asked
):  # fmt: skip
    folder, options = tmp_path_factory.mktemp("data"), {"join_dialogues": True, "vary_questions": vary}
    data, out = prepared(dialogues, folder, T, **options), Batch.empty(2, T)
    for seed, epoch, index in asked:
        fresh = prepared(dialogues, folder, T, **options).batch(seed, epoch, index, 2)
        for found in (data.batch(seed, epoch, index, 2, out), data.batch(seed, epoch, index, 2)):
            for one, other in zip(found, fresh, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_drawn_batch_in_arrays_that_exist_allocates_no_array(tmp_path):
    data = prepared([single(i % 300) for i in range(3000)], tmp_path, 512, **ON)
    out = Batch.empty(32, 512)
    data.batch(1, 0, 0, 32, out)
    tracemalloc.start()
    try:
        data.batch(1, 0, 1, 32, out)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()


# Runs from before.


def test_a_stored_config_without_the_choices_has_them_off():
    stored = Config().to_dict()
    del stored["data"]["join_dialogues"], stored["data"]["vary_questions"]
    before = Config.from_dict(stored).data
    assert (before.join_dialogues, before.vary_questions) == (False, False)
    assert (DataConfig().join_dialogues, DataConfig().vary_questions) == (True, False)


# The file of tokens; tokens, targets and starts of two epochs: as they were before there were choices.
BEFORE = (3593406763, 4009358641, 1592365469, 98266626, 412737675, 3029972383, 3109009621)


def test_a_run_without_the_choices_has_the_batches_and_the_fingerprint_it_had(tmp_path):
    data = prepared(
        [single(i) for i in range(40)],
        tmp_path,
        64,
        **OFF,
        val_fraction=0.1,
        mixed_windows=False,
        held_out_by="content",
    )
    batches = [data.batch(1, epoch, 0, 40) for epoch in range(2)]
    found = [zlib.crc32(part.tobytes()) for batch in batches for part in batch[:3]]
    assert (zlib.crc32((tmp_path / "instruction_tuning.tokens").read_bytes()), *found) == BEFORE
    assert data.fingerprint.startswith("5e20317c59101fd477ad0dbc4a13b07c")


def test_each_choice_has_a_digest_and_a_fingerprint_of_its_own(tmp_path):
    dialogues = [single(i) for i in range(9)]
    options = [
        {"join_dialogues": join, "vary_questions": vary} for join, vary in product([False, True], repeat=2)
    ]
    assert len({digest(text_of(turns, **each) for turns in dialogues) for each in options}) == 4
    assert len({prepared(dialogues, tmp_path, 64, **each).fingerprint for each in options}) == 4
