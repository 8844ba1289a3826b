"""Every token that carries loss is a target exactly once per epoch, in its own document, at a pure address.

The corpora here are made of characters that occur once, and a token is a character: so a target says where it
came from. Order: what an epoch holds, held-out parts, purity, tokens on disk, packing.
"""

import json
import tracemalloc
from collections import Counter
from itertools import accumulate, chain, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.config import Config, DataConfig, ModelConfig, TrainConfig
from tinyllm.text.batches import Batch, Dataset, prepare
from tinyllm.text.dialogue import Segment
from tinyllm.text.files import DataError
from tinyllm.text.packing import pack, stream_spans, stream_windows
from tinyllm.text.texts import Text, Texts
from tinyllm.text.tokens import HEADER, Tokens, load_tokens, save_tokens


class Characters:
    """A token is a code point; the vocabulary's last id is the end of a text."""

    def __init__(self, vocab_size=1 << 20):
        self.vocab_size, self.end_of_text = vocab_size, vocab_size - 1

    def encode_all(self, texts):
        ids = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.int32)
        return ids, list(accumulate(map(len, texts)))

    def fingerprint(self):
        return f"characters {self.vocab_size}"


CHARACTERS = Characters()
END = CHARACTERS.end_of_text
FIRST = 0x20000  # the first character of a corpus; the others follow it


@st.composite
def corpora(draw, streams=True, least=1):
    """Return documents (lists of segments of distinct characters) and, possibly, streams in pieces."""
    texts, code = [], FIRST
    for _ in range(draw(st.integers(least, 8))):
        stream = streams and draw(st.booleans())
        segments = []
        for _ in range(draw(st.integers(1, 4))):
            length = draw(st.integers(1, 40))
            segments.append(
                Segment("".join(map(chr, range(code, code + length))), stream or draw(st.booleans()))
            )
            code += length
        if stream:
            texts += [Text((segment,), i == len(segments) - 1, True) for i, segment in enumerate(segments)]
        else:
            texts.append(Text(tuple(segments)))
    return texts


BLOCKS = st.integers(1, 24)


def config(block_size, seed=1, **options):
    return Config(ModelConfig(block_size=block_size), TrainConfig(seed=seed), DataConfig(**options))


def dataset(texts, directory, block_size, name="pretraining", seed=1, tokenizer=CHARACTERS, **options):
    return prepare(texts, tokenizer, config(block_size, seed, **options), directory, name)


def batches_of(data, seed=1, epoch=0, batch_size=3):
    return [data.batch(seed, epoch, i, batch_size) for i in range(-(-data.windows // batch_size))]


def targets_in(batches):
    return Counter(int(token) for batch in batches for token in batch.targets.flat if token >= 0)


def loss_tokens(texts, train_on_prompts=False):
    """Return the tokens that carry loss: characters, and the ends of answers, documents and streams."""
    expected = Counter()
    for text in texts:
        for segment in text.segments:
            if segment.carries_loss or train_on_prompts:
                expected.update(map(ord, segment.text))
            expected[END] += segment.carries_loss and (text.ends or not text.stream)
    return +expected


def prepared(texts, tmp_path_factory, block_size, **options):
    """Return the dataset, or None where the texts are rightly refused as too few."""
    try:
        return dataset(texts, tmp_path_factory.mktemp("data"), block_size, **options)
    except DataError as error:
        assert any(reason in str(error) for reason in ("none has a token", "too few", "for one window"))
        return None


# What an epoch holds.


@given(corpora(), BLOCKS, st.integers(0, 3), st.integers(1, 5), st.booleans())
def test_every_token_with_loss_is_a_target_exactly_once_in_every_epoch(
    tmp_path_factory, texts, T, epoch, batch_size, train_on_prompts
):
    data = prepared(texts, tmp_path_factory, T, train_on_prompts=train_on_prompts)
    if data is not None:
        found = targets_in(batches_of(data, epoch=epoch, batch_size=batch_size))
        assert found == loss_tokens(texts, train_on_prompts)
        assert data.targets == found.total()


@given(corpora(), BLOCKS, st.integers(0, 2))
def test_a_position_sees_its_own_document_only_and_predicts_its_next_token(tmp_path_factory, texts, T, epoch):
    data = prepared(texts, tmp_path_factory, T)
    if data is None:
        return
    successor = successors(texts)
    for batch in batches_of(data, epoch=epoch):
        for tokens, targets, starts in zip(*batch[:3], strict=True):
            for t in range(T):
                start = starts[t]
                assert (
                    0 <= start <= t and starts[start] == start
                )  # the document's first position is its own start
                if t > start:
                    assert starts[t - 1] == start
                    assert (tokens[t - 1], tokens[t]) in successor
                if targets[t] >= 0:
                    assert (tokens[t], targets[t]) in successor


def successors(texts):
    """Return all pairs of tokens that follow each other in a document."""
    pairs, row = set(), [END]
    for text in texts:
        for segment in text.segments:
            row += map(ord, segment.text)
            row += [END] if segment.carries_loss and not text.stream else []
        if text.ends:
            row += [END] if text.stream else []
            pairs.update(pairwise(row))
            row = [END]
    return pairs


@given(corpora(), BLOCKS)
def test_every_batch_of_an_epoch_has_a_target_and_those_behind_it_have_none(tmp_path_factory, texts, T):
    data = prepared(texts, tmp_path_factory, T)
    if data is not None:
        assert all((batch.targets >= 0).any() for batch in batches_of(data, batch_size=1))
        assert (data.batch(1, 0, data.windows, 1).targets == -1).all()


def test_padding_is_a_document_of_its_own_at_every_position(tmp_path):
    data = dataset([Text((Segment("abc"),))], tmp_path, 6)
    batch = data.batch(seed=1, epoch=0, index=0, batch_size=2)
    assert batch.tokens.tolist() == [[END, *b"abc", 0, 0], [0] * 6]
    assert batch.targets.tolist() == [[*b"abc", END, -1, -1], [-1] * 6]
    assert batch.starts.tolist() == [[0, 0, 0, 0, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert all(part.dtype == np.int32 for part in batch[:3])
    assert batch.loss_tokens == 4


def test_prompts_carry_no_loss_unless_asked(tmp_path):
    texts = [Text((Segment("qq", False), Segment("a"), Segment("r", False), Segment("b")))]
    for option, expected in [
        (False, [-1, -1, *b"a", END, -1, *b"b", END]),
        (True, [*b"qqa", END, *b"rb", END]),
    ]:
        data = dataset(texts, tmp_path, 7, train_on_prompts=option)
        assert data.batch(1, 0, 0, 1).tokens.tolist() == [[END, *b"qqa", END, *b"rb"]]
        assert data.batch(1, 0, 0, 1).targets.tolist() == [expected]


def test_pieces_without_loss_are_left_out(tmp_path):
    prompt = "q" * 100
    data = dataset(
        [Text((Segment(prompt, False), Segment("a"))), Text((Segment(prompt, False),))], tmp_path, 10
    )
    assert data.windows == 1
    assert targets_in(batches_of(data)) == {ord("a"): 1, END: 1}


def test_the_windows_of_a_stream_begin_elsewhere_in_another_epoch(tmp_path):
    stream = Text((Segment("".join(map(chr, range(FIRST, FIRST + 1000)))),), stream=True)
    data = dataset([stream], tmp_path, 50)
    full = [
        {int(tokens[0]) for batch in batches_of(data, epoch=epoch) for tokens in batch.tokens}
        for epoch in (0, 1)
    ]
    assert not full[0] & full[1] - {END}


def test_documents_are_cut_from_their_beginning_and_streams_from_an_offset(tmp_path):
    long = Segment("".join(map(chr, range(FIRST, FIRST + 99))))
    other = Segment("".join(map(chr, range(FIRST + 99, FIRST + 198))))
    texts = [Text((long,)), Text((other,), stream=True), Text((Segment("a"),))]
    data = dataset(texts, tmp_path, 25, val_fraction=0.05)
    found = [
        {int(token) for batch in batches_of(data, epoch=epoch) for token in batch.tokens[:, 0]}
        for epoch in (0, 1)
    ]
    documents, streams = set(range(FIRST, FIRST + 99)), set(range(FIRST + 99, FIRST + 198))
    for epoch in (0, 1):
        assert found[epoch] & documents in (set(), {FIRST + 24, FIRST + 49, FIRST + 74})
    assert found[0] & streams != found[1] & streams


def test_short_streams_are_packed_like_documents(tmp_path):
    texts = [Text((Segment(chr(FIRST + i) * 4),), stream=True) for i in range(6)]
    data = dataset(texts, tmp_path, 15)
    assert data.windows == 2
    assert (data.batch(1, 0, 0, 1).starts == np.repeat([0, 5, 10], 5)).all()


def test_too_little_text_is_refused_with_the_numbers(tmp_path):
    stream = Text((Segment("abcde"),), stream=True)
    with pytest.raises(DataError, match=r"found 7 tokens to train on, expected 8 or more"):
        dataset([stream], tmp_path, 7)
    assert dataset([stream], tmp_path, 6).windows == 1
    with pytest.raises(DataError, match="found 1 document, none has a token with loss"):
        dataset([Text((Segment("q", False),))], tmp_path, 4)
    with pytest.raises(DataError, match="found 1 document and 5 tokens, too few to hold out"):
        dataset([Text((Segment("abc"),))], tmp_path, 4, val_fraction=0.5)


@given(corpora(), BLOCKS, st.booleans(), st.sampled_from([0.0, 0.3]))
def test_a_batch_says_how_many_of_its_targets_carry_loss(
    tmp_path_factory, texts, T, train_on_prompts, val_fraction
):
    data = prepared(texts, tmp_path_factory, T, train_on_prompts=train_on_prompts, val_fraction=val_fraction)
    if data is not None:
        for batch in chain(batches_of(data), data.validation(2)):
            assert batch.loss_tokens == (batch.targets >= 0).sum()


# Held-out parts.


@given(corpora(least=2), BLOCKS, st.sampled_from([0.01, 0.1, 0.5, 0.9]), st.integers(0, 3))
def test_what_is_held_out_and_what_is_trained_on_are_disjoint_and_complete(
    tmp_path_factory, texts, T, fraction, seed
):
    data = prepared(texts, tmp_path_factory, T, seed=seed, val_fraction=fraction)
    if data is not None:
        train, held_out = targets_in(batches_of(data, epoch=1)), targets_in(data.validation(2))
        assert not train.keys() & held_out.keys() - {END}
        assert train + held_out == loss_tokens(texts)
        assert train and held_out


def test_documents_are_held_out_whole_and_streams_at_their_end(tmp_path):
    documents = [Text((Segment(chr(FIRST + i) * 5),)) for i in range(400)]
    found = targets_in(dataset(documents, tmp_path, 4, val_fraction=0.25).validation(3))
    assert 70 < len(found) < 130 and all(count == 5 for token, count in found.items() if token != END)
    stream = Text((Segment("".join(map(chr, range(FIRST, FIRST + 99)))),), stream=True)
    found = targets_in(dataset([stream], tmp_path, 4, val_fraction=0.25).validation(3))
    assert found.keys() == {*range(FIRST + 75, FIRST + 99), END}


def held_out(texts, tmp_path, **options):
    return targets_in(dataset(texts, tmp_path, 4, **options).validation(3)).keys() - {END}


@given(st.lists(st.integers(0, 999), min_size=8, max_size=30, unique=True), st.integers(1, 29), st.randoms())
def test_documents_that_are_added_send_no_other_to_the_held_out_part(
    tmp_path_factory, codes, count, random
):  # fmt: skip
    texts = [Text((Segment(chr(FIRST + code)),)) for code in codes]
    added = [Text((Segment(chr(FIRST + 1000 + i)),)) for i in range(count)]
    more = texts + added
    random.shuffle(more)
    folder = tmp_path_factory.mktemp("split")
    before, after = (held_out(each, folder, val_fraction=0.2) for each in (texts, more))
    trained = {FIRST + code for code in codes} - before
    assert not after & trained


def test_equal_documents_are_on_one_side(tmp_path):
    texts = [Text((Segment(chr(FIRST + i % 40)),)) for i in range(200)]
    data = dataset(texts, tmp_path, 4, val_fraction=0.3)
    train, held = targets_in(batches_of(data)), targets_in(data.validation(3))
    assert held and not train.keys() & held.keys() - {END}


def test_what_both_phases_read_is_held_out_of_both(tmp_path):
    """Otherwise the validation loss of instruction tuning would be that of dialogues seen in pretraining."""
    shared = [Text((Segment(chr(FIRST + i)),)) for i in range(200)]
    more = [Text((Segment(chr(FIRST + i)),)) for i in range(200, 400)]
    phases = {"pretraining": more + shared, "instruction_tuning": shared}
    for how, same in (("tokens", True), ("content", False)):  # earlier runs keep their parts
        held = [
            held_out(texts, tmp_path, val_fraction=0.3, held_out_by=how, name=name)
            for name, texts in phases.items()
        ]
        assert (held[0] & set(range(FIRST, FIRST + 200)) == held[1]) == same, how


def test_documents_that_are_held_out_whole_have_their_numbers(tmp_path):
    documents = [Text((Segment(chr(FIRST + i) * 5),)) for i in range(50)]
    pieces = [Text((Segment("".join(map(chr, range(FIRST + 99, FIRST + 199)))),), False, True)] * 2
    texts = [*documents[:20], *pieces[:1], pieces[1]._replace(ends=True), *documents[20:]]
    data = dataset(texts, tmp_path, 4, val_fraction=0.3)
    held = targets_in(data.validation(3)).keys() - {END}
    expected = {i + (i >= 20) for i in range(50) if FIRST + i in held}  # the stream is number 20
    assert data.held_out_documents == expected and 5 < len(expected) < 30
    assert dataset(texts, tmp_path, 4).held_out_documents == frozenset()


def test_runs_from_before_keep_what_they_held_out(tmp_path):
    stored = config(4, val_fraction=0.25).to_dict()
    del stored["data"]["held_out_by"], stored["data"]["mixed_windows"]
    before = Config.from_dict(stored)
    assert before.data.held_out_by == "place" and config(4).data.held_out_by == "tokens"
    documents = [Text((Segment(chr(FIRST + i)),)) for i in range(20)]
    data = prepare(documents, CHARACTERS, before, tmp_path, "pretraining")
    found = {token - FIRST for token in targets_in(data.validation(3)) if token != END}
    assert found == {1, 9, 10, 12, 17}
    assert data.fingerprint.startswith("304cf6eb4d948458966c")


@pytest.mark.parametrize(("how", "parts"), [("tokens", 2), ("content", 4), ("place", 4)])
def test_another_seed_holds_out_other_documents_and_in_earlier_runs_another_phase(how, parts, tmp_path):
    documents = [Text((Segment(chr(FIRST + i)),)) for i in range(50)]
    datasets = [
        dataset(documents, tmp_path, 4, name, seed, val_fraction=0.5, held_out_by=how)
        for name in "ab"
        for seed in (1, 2)
    ]
    assert len({tuple(targets_in(data.validation(4))) for data in datasets}) == parts


def test_nothing_held_out_yields_no_validation(tmp_path):
    assert list(dataset([Text((Segment("abc"),))], tmp_path, 4).validation(4)) == []


# Purity.


@given(
    corpora(),
    BLOCKS,
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)), max_size=9),
)
def test_a_batch_depends_on_its_address_and_not_on_what_was_asked_before(tmp_path_factory, texts, T, asked):
    folder = tmp_path_factory.mktemp("data")
    try:
        data = dataset(texts, folder, T)
    except DataError:
        return
    for seed, epoch, index in asked:
        fresh = dataset(texts, folder, T).batch(seed, epoch, index, 2)
        for one, other in zip(data.batch(seed, epoch, index, 2), fresh, strict=True):
            np.testing.assert_array_equal(one, other)


@given(corpora(), BLOCKS, st.integers(1, 4))
def test_arrays_that_are_filled_again_hold_nothing_of_the_batch_before(
    tmp_path_factory, texts, T, batch_size
):
    data = prepared(texts, tmp_path_factory, T)
    if data is not None:
        out = Batch.empty(batch_size, T)
        for epoch, index in product(range(2), range(-(-data.windows // batch_size) + 1)):
            batch = data.batch(1, epoch, index, batch_size, out)
            assert all(one is other for one, other in zip(batch[:3], out[:3], strict=True))
            for one, other in zip(batch, data.batch(1, epoch, index, batch_size), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stream", [False, True])
def test_a_batch_in_arrays_that_exist_allocates_no_array(tmp_path, stream):
    B, T = 64, 512  # 131,072 bytes an array
    text = "".join(map(chr, range(FIRST, FIRST + 3 * B * T)))
    texts = [
        Text((Segment(text[i : i + 99]), Segment("q" * 9, stream)), i > 3 * B * T - 99, stream)
        for i in range(0, len(text), 99)
    ]
    data = dataset(texts, tmp_path, T)
    out = Batch.empty(B, T)
    data.batch(1, 0, 0, B, out)
    tracemalloc.start()
    try:
        data.batch(1, 0, 1, B, out)
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()


def test_epochs_and_seeds_and_names_have_orders_of_their_own(tmp_path):
    texts = [Text((Segment(chr(FIRST + i)),)) for i in range(100)]
    data, other = dataset(texts, tmp_path, 2), dataset(texts, tmp_path, 2, name="instruction_tuning")
    rows = [
        data.batch(1, 0, 0, 100),
        data.batch(1, 1, 0, 100),
        data.batch(2, 0, 0, 100),
        other.batch(1, 0, 0, 100),
    ]
    assert len({batch.tokens.tobytes() for batch in rows}) == 4


def test_the_batch_size_cuts_the_same_order_of_windows(tmp_path):
    texts = [Text((Segment(chr(FIRST + i) * 5),)) for i in range(10)]
    data = dataset(texts, tmp_path, 6)
    by_two = np.concatenate([data.batch(1, 0, i, 2).tokens for i in range(5)])
    np.testing.assert_array_equal(by_two, data.batch(1, 0, 0, 10).tokens)


def test_the_fingerprint_knows_what_decides_batches_and_nothing_else(tmp_path):
    texts = [Text((Segment("q", False), Segment(letter))) for letter in "abcd"]
    base = dataset(texts, tmp_path / "a", 4).fingerprint
    assert base == dataset(list(texts), tmp_path / "b", 4, seed=2).fingerprint
    changed = [
        dataset(texts[1:], tmp_path, 4),
        dataset(texts, tmp_path, 5),
        dataset(texts, tmp_path, 4, tokenizer=Characters(1 << 19)),
        dataset(texts, tmp_path, 4, train_on_prompts=True),
        dataset(texts, tmp_path, 4, val_fraction=0.5),
        dataset(texts, tmp_path, 4, val_fraction=0.5, seed=2),
    ]
    assert len({base, *(data.fingerprint for data in changed)}) == 7


# Tokens on disk.


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_tokens_take_two_bytes_when_the_vocabulary_allows(tmp_path, vocab_size, dtype):
    text = Text((Segment(chr(0xFFFE) + "a"),))
    save_tokens(tmp_path / "a.tokens", [text], Characters(vocab_size))
    tokens = load_tokens(tmp_path / "a.tokens", vocab_size)
    assert tokens is not None
    assert tokens.tokens.dtype == dtype
    assert tokens.tokens.tolist() == [vocab_size - 1, 0xFFFE, ord("a"), vocab_size - 1]


class Counted(Characters):
    """Counts the calls of encode_all."""

    calls = 0

    def encode_all(self, texts):
        Counted.calls += 1
        return super().encode_all(texts)


COUNTED = Counted()


def test_tokens_are_made_once_and_again_when_the_text_or_the_tokenizer_changes(tmp_path):
    texts = [Text((Segment("abc"),))]

    def calls(texts, tokenizer=COUNTED, block_size=4):
        before = Counted.calls
        dataset(texts, tmp_path, block_size, tokenizer=tokenizer)
        return Counted.calls - before

    assert [calls(texts), calls(texts), calls(texts, block_size=3)] == [1, 0, 0]
    assert [calls([Text((Segment("abd"),))]), calls(texts), calls(texts, Counted(1 << 18))] == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["pretraining.tokens"]


DAMAGES = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "torn": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "only a header": lambda content: content[:HEADER],
    "another format": lambda content: content.replace(b"tokens 1", b"tokens 2"),
    "no JSON": lambda content: b"?" + content[1:],
    "other JSON": lambda content: b"[]".ljust(HEADER) + content[HEADER:],
    "made of nothing": lambda content: content.replace(b'"texts"', b'"taxes"'),
    "no counts": lambda content: content.replace(b'"parts"', b'"party"'),
    "zeros": lambda content: bytes(len(content)),
    "a token": lambda content: content[:HEADER] + bytes([content[HEADER] ^ 1]) + content[HEADER + 1 :],
    "the last byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_tokens_is_made_again(tmp_path, damage):
    texts = [Text((Segment("q", False), Segment("abc"))), Text((Segment("de"),))]
    expected = dataset(texts, tmp_path, 4).batch(1, 0, 0, 4)
    path = tmp_path / "pretraining.tokens"
    content = path.read_bytes()
    damaged = DAMAGES[damage](content)
    path.unlink()
    if damaged is not None:
        assert damaged != content
        path.write_bytes(damaged)
    for one, other in zip(dataset(texts, tmp_path, 4).batch(1, 0, 0, 4), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert path.read_bytes() == content


def test_a_text_that_cannot_be_read_leaves_the_old_file_and_no_other(tmp_path):
    def texts():
        yield Text((Segment("abc"),))
        raise DataError("no")

    save_tokens(tmp_path / "a.tokens", [Text((Segment("old"),))], CHARACTERS)
    content = (tmp_path / "a.tokens").read_bytes()
    with pytest.raises(DataError):
        save_tokens(tmp_path / "a.tokens", texts(), CHARACTERS)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]


def test_tokens_in_use_stay_as_they_are_when_the_file_is_made_again(tmp_path):
    texts = [[Text((Segment(letter * 4000),))] for letter in "ab"]
    data = dataset(texts[0], tmp_path, 8)
    dataset(texts[1], tmp_path, 8)
    assert targets_in(batches_of(data)) == {ord("a"): 4000, END: 1}


def test_the_header_is_a_line_of_json(tmp_path):
    dataset([Text((Segment("abc"),))], tmp_path, 4)
    header = json.loads((tmp_path / "pretraining.tokens").open("rb").readline())
    assert header["parts"] == [["<u4", 5], ["<i8", 2], ["<i8", 0], ["|u1", 1]]


def test_files_of_all_kinds_train_together(tmp_path):
    (tmp_path / "a.txt").write_text("".join(map(chr, range(FIRST, FIRST + 100))), "utf-8")
    (tmp_path / "b.json").write_text('["one", {"prompt": "two", "response": "three"}]')
    data = dataset(Texts([tmp_path], dialogues=False), tmp_path / "run", 16)
    expected = Counter([*range(FIRST, FIRST + 100), *b"one three", *[END] * 3])
    assert data.documents == 3
    assert targets_in(batches_of(data)) == expected


@pytest.mark.slow
def test_a_long_stream_is_prepared_in_bounded_memory(tmp_path):
    line = "The quick brown fox jumps over the lazy dog, 狐狸跳过了狗。\n"
    path = tmp_path / "long.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(64):
            file.write(line * ((1 << 20) // len(line.encode())))
    tracemalloc.start()
    try:
        data = dataset(Texts([path], dialogues=False), tmp_path, 256)
        data.batch(1, 0, 0, 8)
        assert data.tokens > 50 << 20
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


# Packing.


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(12, 16))
def test_packing_keeps_every_span_whole_and_no_window_is_too_full(lengths, T):
    ends = np.cumsum(lengths, dtype=np.int64)
    spans = np.stack([ends - np.array(lengths, np.int64), ends], axis=1)
    windows = pack(spans, T)
    packed = [tuple(span) for w in range(len(windows)) for span in windows[w].tolist()]
    assert sorted(packed) == [tuple(span) for span in spans.tolist()]
    fills = [int(np.diff(windows[w]).sum()) for w in range(len(windows))]
    assert all(0 < fill <= T for fill in fills)
    assert sum(fill * 2 <= T for fill in fills) <= 1  # two windows that are half empty would be one


def test_a_span_goes_where_it_fits_best():
    ends = np.cumsum([16, 14, 4, 3, 3])
    spans = np.stack([ends - [16, 14, 4, 3, 3], ends], axis=1)
    assert [np.diff(pack(spans, 20)[w]).ravel().tolist() for w in range(2)] == [[16, 4], [14, 3, 3]]


@given(st.integers(1, 20), st.integers(1, 200), st.data())
def test_the_windows_of_a_stream_cover_it_once_at_every_offset(T, more, data):
    stop, offset = T + more, data.draw(st.integers(0, T - 1))
    windows = []
    for w in range(stream_windows(np.array([stop]), T)[0]):
        spans = np.full((2, 2), -1)
        windows.append(spans[: stream_spans(spans, 7, 7 + stop, offset, w, T)])
    positions = [i for window in windows for start, end in window for i in range(start, end)]
    assert sorted(positions) == list(range(7, 7 + stop))
    assert all(0 < np.diff(window).sum() <= T for window in windows)


def test_a_document_of_one_token_is_no_window():
    corpus = Tokens(
        np.array([9, 9, 5, 9], np.uint16),
        np.array([0, 1, 4]),
        np.empty(0, np.int64),
        np.zeros(2, np.uint8),
        {},
    )
    data = Dataset(corpus, config(8), "a")
    assert data.windows == 1 and data.targets == 2
