"""evaluate measures what it says: the loss of plain float64 NumPy, whoever computes it, and of training.

Order: the loss, bytes, simple models, answers, the command line, the log of a run.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter

import numpy as np
import pytest

from tests.models import chain_of, random_state, saved
from tests.plain_model import losses, plain
from tinyllm import evaluate as door
from tinyllm.config import Config, DataConfig, ModelConfig, TrainConfig
from tinyllm.inference import evaluation
from tinyllm.inference.evaluation import answers, evaluate
from tinyllm.inference.language_model import LanguageModel
from tinyllm.parallel.team import Team
from tinyllm.run.state import Sources
from tinyllm.text.baselines import Counts, ngram_losses, xz_size
from tinyllm.text.batches import Dataset
from tinyllm.text.dialogue import Turn, encode, render
from tinyllm.text.passages import Passages
from tinyllm.text.texts import Texts
from tinyllm.text.tokenizer import BPETokenizer, CharTokenizer
from tinyllm.text.tokens import load_tokens, save_tokens
from tinyllm.training import header, metrics
from tinyllm.training.setup import open_texts
from tinyllm.training.step import Engine

SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=24, dropout=0.1)
TOKENIZER = BPETokenizer(((0xE6, 0x9C),))  # bytes, but for one: a Chinese character is two tokens, or three
ENTRIES = [
    "aaaaaa.", "月亮绕着地球转。", "A document that is much longer than one window, so it is cut into some.",
    *({"prompt": f"{n} + {n}?", "response": f"It is {n + n}, I think; 是{n + n}。"} for n in range(12)),
]  # fmt: skip


@pytest.fixture(scope="module")
def state():
    return random_state(SHAPE, TOKENIZER)


@pytest.fixture(scope="module")
def model(state):
    return LanguageModel.of(state)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.json").write_text(json.dumps(ENTRIES, ensure_ascii=False), encoding="utf-8")
    (folder / "b.txt").write_text("一本书。A book, which is one stream. " * 9, encoding="utf-8")
    save_tokens(folder / "data" / "a.tokens", Texts([folder], dialogues=False), TOKENIZER)
    return load_tokens(folder / "data" / "a.tokens", TOKENIZER.vocab_size)


@pytest.fixture(scope="module")
def small_batches():
    """Several batches of a few windows each, of which the last is not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "ROWS", 3 * SHAPE.block_size)
        yield


def truth(state, passages):
    """Return the loss, the number of targets and of hits of each passage, by the equations alone."""
    p = state.layout.views(state.rows[0].astype(np.float64))
    masked = {i for begin, end in passages.masked.reshape(-1, 2).tolist() for i in range(begin, end)}
    found = []
    for start, stop in passages.spans.tolist():
        total, count, hits = 0.0, 0, 0
        for first in range(start, stop, SHAPE.block_size):
            last = min(first + SHAPE.block_size, stop)
            ids, following = passages.tokens[first:last], passages.tokens[first + 1 : last + 1].astype(int)
            logits = plain(p, ids.astype(int), SHAPE.n_head)[1]
            known = [i for i in range(last - first) if first + i + 1 not in masked]
            total += losses(logits, following)[known].sum()
            count += len(known)
            hits += int((logits.argmax(1) == following)[known].sum())
        found.append((total, count, hits))
    return np.array(found)


# ---- the loss


@pytest.mark.parametrize("on_prompts", [False, True])
def test_the_loss_is_that_of_float64_numpy(state, model, corpus, small_batches, on_prompts):
    passages = Passages.of(corpus, train_on_prompts=on_prompts)
    expected, found = truth(state, passages), evaluate(model, passages)
    assert found.losses == pytest.approx(expected[:, 0], rel=1e-6)
    assert (found.counts == expected[:, 1]).all() and found.hits == expected[:, 2].sum()
    total, count = expected[:, 0].sum(), expected[:, 1].sum()
    assert (found.tokens, found.loss) == (count, pytest.approx(total / count, rel=1e-6))
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)
    ratio = expected[:, 0] / expected[:, 1]
    assert found.worst(3) == np.argsort(-ratio)[:3].tolist()


def test_a_hit_is_the_most_probable_token(state, model):
    p, ids = state.layout.views(state.rows[0].astype(np.float64)), [257]
    for i in range(20):  # every second token is the model's own
        ids.append(int(plain(p, np.array(ids), SHAPE.n_head)[1][-1].argmax()) if i % 2 else 65 + i)
    tokens = np.array(ids, np.uint16)
    passages = Passages(tokens, np.empty(0, np.int64), np.array([[0, 20]]))
    found, expected = evaluate(model, passages), truth(state, passages)
    assert found.hits == expected[0, 2] == 10 and found.accuracy == 0.5


def test_a_model_that_diverged_has_no_hits(corpus):
    state = random_state(SHAPE, TOKENIZER)
    state.rows[0] *= 1e30
    found = evaluate(LanguageModel.of(state), Passages.of(corpus))
    assert found.hits == 0 and math.isnan(found.loss)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_every_number_of_workers_finds_the_same_bits(corpus, workers, monkeypatch):
    # Of a shape whose last bits depend on how many windows a batch has, at least with OpenBLAS.
    shape = ModelConfig(n_layer=1, n_head=1, n_embd=20, block_size=7)
    monkeypatch.setattr(evaluation, "ROWS", 3 * shape.block_size)
    model, passages = LanguageModel.of(random_state(shape, TOKENIZER)), Passages.of(corpus)
    one, several = evaluate(model, passages, 1), evaluate(model, passages, workers)
    assert one.losses.tobytes() == several.losses.tobytes() and one.nats.hex() == several.nats.hex()
    assert (one.hits, one.text_bytes) == (several.hits, several.text_bytes)
    assert (one.counts == several.counts).all()


def test_the_loss_is_the_one_that_training_prints(state, model, corpus):
    config = Config(SHAPE, TrainConfig(batch_size=2), DataConfig(val_fraction=0.4))
    dataset = Dataset(corpus, config, "pretraining")
    with Team(1) as team:
        printed = Engine(state, team).evaluate(state, dataset.validation(state.config.train.batch_size))
    found = evaluate(model, Passages.of(corpus, dataset.held_out))
    assert found.loss == pytest.approx(printed, rel=1e-6)
    assert 0 < found.tokens < evaluate(model, Passages.of(corpus)).tokens


def test_progress_ends_at_the_number_of_windows(model, corpus, small_batches):
    seen: list[tuple[int, int]] = []
    evaluate(model, Passages.of(corpus), 2, lambda *now: seen.append(now))
    assert len(seen) > 2 and seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_of_a_question_in_several_forms_the_first_is_measured(tmp_path, model):
    forms = [["What is 1?", "Tell me what 1 is."], "What is 2?"]
    entries = [{"prompt": form, "response": "A number."} for form in forms]
    (tmp_path / "c.json").write_text(json.dumps(entries), encoding="utf-8")
    save_tokens(tmp_path / "data" / "c.tokens", Texts([tmp_path], dialogues=True), TOKENIZER)
    corpus = load_tokens(tmp_path / "data" / "c.tokens", TOKENIZER.vocab_size)
    passages = Passages.of(corpus)
    assert len(corpus.kinds) == 3
    found = [TOKENIZER.decode(corpus.tokens[start:stop]) for start, stop in passages.spans]
    assert found == [f"User: What is {n}? Assistant: A number." for n in (1, 2)]
    assert (evaluate(model, passages).counts == len(" A number.") + 1).all()


# ---- bytes


def test_bits_per_byte_count_the_bytes_of_what_has_loss(model, corpus):
    text = "月亮, the moon; " * 5
    found = evaluate(model, Passages.of_text(TOKENIZER, text))
    assert found.tokens == len(TOKENIZER.encode(text)) + 1  # and end_of_text
    assert found.text_bytes == len(text.encode())
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / len(text.encode()))
    answered = sum(len(each["response"].encode()) for each in ENTRIES if isinstance(each, dict))
    dialogues = Passages.of(corpus, np.stack([corpus.starts[3:15], corpus.starts[4:16] - 1], axis=1))
    spaces = 12  # before English answers
    assert evaluate(model, dialogues).text_bytes == answered + spaces


def test_a_text_has_the_same_bytes_in_every_tokenizer(state):
    text = "abc 月亮 abc"
    characters = CharTokenizer(tuple(sorted(set(map(ord, text)))))
    other = LanguageModel.of(random_state(SHAPE, characters))
    found = evaluate(other, Passages.of_text(characters, text))
    assert (found.tokens, found.text_bytes) == (len(text) + 1, len(text.encode()))


# ---- simple models


def neighbours(passages):
    masked = {i for begin, end in passages.masked.reshape(-1, 2).tolist() for i in range(begin, end)}
    return [
        (int(passages.tokens[i]), int(passages.tokens[i + 1]))
        for start, stop in passages.spans.tolist()
        for i in range(start, stop)
        if i + 1 not in masked
    ]


def test_the_entropies_are_those_of_the_counted_tokens(corpus):
    pairs = neighbours(passages := Passages.of(corpus))
    tokens, both, before = Counter(b for _, b in pairs), Counter(pairs), Counter(a for a, _ in pairs)
    unigram = -sum(n * math.log(n / len(pairs)) for n in tokens.values()) / len(pairs)
    bigram = -sum(n * math.log(n / before[a]) for (a, _), n in both.items()) / len(pairs)
    found = Counts.of(passages, TOKENIZER.vocab_size).entropies()
    assert found == (pytest.approx(unigram), pytest.approx(bigram)) and found[0] > found[1] > 0


def test_simple_models_are_distributions_and_lose_what_they_say(corpus):
    passages, V = Passages.of(corpus), TOKENIZER.vocab_size
    half = len(passages.spans) // 2
    counted, other = (Passages.of(corpus, part) for part in (passages.spans[:half], passages.spans[half:]))
    counts = Counts.of(counted, V)
    for context in (*{a for a, _ in neighbours(counted)[:5]}, 255):  # the last one was never seen
        for found in counts.losses(np.full(V, context), np.arange(V)):
            assert np.exp(-found).sum() == pytest.approx(1)
    pairs = neighbours(counted)
    tokens, both, before = Counter(b for _, b in pairs), Counter(pairs), Counter(a for a, _ in pairs)
    kinds = Counter(a for a, _ in both)
    sums = [0.0, 0.0]
    for a, b in neighbours(other):
        unigram = (tokens[b] + 1) / (len(pairs) + V)
        sums[0] -= math.log(unigram)
        known = before[a] + kinds[a]
        sums[1] -= math.log((both[a, b] + kinds[a] * unigram) / known if known else unigram)
    assert ngram_losses(counts, other) == (pytest.approx(sums[0]), pytest.approx(sums[1]))


def test_transitions_come_in_bounded_blocks_and_samples_are_spread(monkeypatch):
    monkeypatch.setattr("tinyllm.text.passages.BLOCK", 1 << 13)
    tokens = np.arange(100_000) % 251
    whole = Passages(tokens, np.empty(0, np.int64), np.array([[0, 40_000], [40_001, 99_999]]))
    blocks = [*whole.transitions()]
    assert max(len(contexts) for contexts, _ in blocks) <= (1 << 13) + (1 << 12)
    assert sum(len(contexts) for contexts, _ in blocks) == 99_998
    assert all(((targets - contexts) % 251 == 1).all() for contexts, targets in blocks)
    counts = Counts.of(whole, 251, limit=20_000)
    assert 10_000 < counts.total <= 25_000 and counts.tokens.min() > 0


def test_xz_is_that_of_the_joined_parts():
    import lzma

    text = b"to be or not to be, " * 99
    assert xz_size([text[:100], text[100:]]) == len(lzma.compress(text)) < len(text) // 9
    assert xz_size([]) == len(lzma.compress(b""))


# ---- answers


def talk(tmp_path, *exchanges):
    """Return a model that answers 嗨 with 你好呀, and dialogues of (question, answer) as passages."""
    state = chain_of("嗨你好呀", "用户助手：不是")
    tokenizer = state.tokenizer
    documents = [encode(tokenizer, render([Turn("user", q), Turn("assistant", a)])) for q, a in exchanges]
    tokens = np.concatenate([tokens for tokens, _ in documents])
    starts = np.cumsum([0, *(len(tokens) for tokens, _ in documents)])
    prompts = [start + i for start, (_, masked) in zip(starts, documents, strict=False) for i in masked]
    spans = np.stack([starts[:-1], starts[1:] - 1], axis=1)
    return LanguageModel.of(state), Passages(tokens, np.array(prompts, np.int64), spans)


def test_answers_are_greedy_and_compared_word_for_word(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "TOGETHER", 2)
    model, passages = talk(tmp_path, ("是", "不"), ("嗨", "你好呀"), ("不", "嗨"))
    said = answers(model, passages, 10)
    assert [each.expected for each in said] == ["不", "你好呀", "嗨"]
    alone = [answers(model, Passages.of_text(model.tokenizer, "嗨你好"), 10)]
    assert alone == [[]]
    assert len(answers(model, passages, 2)) == 2
    threads = LanguageModel(model.weights, model.tokenizer, model.form, 3)
    assert answers(threads, passages, 10) == said


def test_an_answer_follows_the_true_dialogue_before_it(tmp_path, model, corpus):
    turns = [Turn("user", "a"), Turn("assistant", "bc"), Turn("user", "d"), Turn("assistant", "ef")]
    tokens, masked = encode(TOKENIZER, render(turns))
    passages = Passages(tokens, np.array(masked), np.array([[0, len(tokens) - 1]]))
    places = [*evaluation._asked(passages)]
    assert [TOKENIZER.decode(tokens[:begin]) for _, begin, _ in places] == [
        "User: a Assistant:", "User: a Assistant: bcUser: d Assistant:",
    ]  # fmt: skip
    assert [TOKENIZER.decode(tokens[begin:end]) for _, begin, end in places] == [" bc", " ef"]
    assert [each.expected for each in answers(model, passages, 9)] == ["bc", "ef"]


# ---- the command line


def run(*argv):
    """Return (exit code, stdout, stderr) of evaluate."""
    out, err = io.StringIO(), io.StringIO()
    try:
        code = door.main([str(each) for each in argv], None, out, err)
    except SystemExit as error:
        code = error.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("The moon is round.\n\nThe sun is\x1b[31m hot.\n\n" * 12, encoding="utf-8")
    return path


def trained_on(state, paths, folder, **data):
    """Save a model that says it was trained on these paths; return the file."""
    config = Config(SHAPE, data=DataConfig(**data))
    folder.mkdir()
    texts = open_texts(config, "pretraining", [str(path) for path in paths])
    save_tokens(folder / "elsewhere" / "x.tokens", texts, state.tokenizer)
    tokens = load_tokens(folder / "elsewhere" / "x.tokens", state.tokenizer.vocab_size)
    fingerprint = Dataset(tokens, config, "pretraining").fingerprint
    state.config, state.sources = config, {"pretraining": Sources([str(p) for p in paths], fingerprint)}
    return saved(state, folder)


def test_a_run_is_measured_on_what_it_held_out_or_else_on_its_training_texts(tmp_path, book):
    state = random_state(SHAPE, TOKENIZER)
    held = trained_on(state, [book], tmp_path / "held", documents=True, val_fraction=0.1)
    code, out, err = run(held)
    assert (code, err) == (0, "")
    assert out.startswith("pretraining, the held-out part: ")
    assert [line.split()[0] for line in out.splitlines()[2:6]] == [str(held), "bigram", "unigram", "xz"]
    whole = trained_on(state, [book], tmp_path / "whole")
    code, out, _ = run(whole)
    assert code == 0
    assert out.startswith("pretraining, the training texts (nothing is held out): 1 document, 504 bytes\n")
    assert "  The moon is round.\\n\\nThe sun is\\x1b[31m hot." in out and "\x1b" not in out


def test_texts_that_are_given_make_a_table_of_several_models(tmp_path, book):
    state = random_state(SHAPE, TOKENIZER)
    one = trained_on(state, [book], tmp_path / "one")
    two = saved(random_state(SHAPE, CharTokenizer(tuple(sorted({*map(ord, book.read_text())}))), 1), tmp_path)
    code, out, err = run(one, two, book, "--json")
    assert code == 0 and "no unigram and bigram: the training texts cannot be used" in err
    (table,) = json.loads(out)
    assert (table["title"], table["documents"], table["text_bytes"]) == (str(book), 1, 504)
    assert [row["name"] for row in table["rows"]] == [
        str(one),
        str(two),
        f"bigram ({one})",
        f"unigram ({one})",
        "xz",
    ]
    first = table["rows"][0]
    passages = Passages.of_text(TOKENIZER, book.read_text())
    expected = evaluate(LanguageModel.of(state), passages)
    assert first["loss"] == expected.loss and first["bits_per_byte"] == expected.bits_per_byte
    assert table["rows"][-1]["loss"] is None and table["rows"][-1]["bits_per_byte"] > 0


def test_models_with_other_texts_are_not_compared(tmp_path, book):
    other = tmp_path / "other.txt"
    other.write_text("Something else, which is long enough for a window.", encoding="utf-8")
    one = trained_on(random_state(SHAPE, TOKENIZER), [book], tmp_path / "one")
    two = trained_on(random_state(SHAPE, TOKENIZER), [other], tmp_path / "two")
    code, out, err = run(one, two)
    assert (code, out) == (2, "") and "give the same texts with --data" in err
    assert run(one, one)[0] == 0


def test_texts_that_are_gone_or_changed_are_named(tmp_path, book):
    file = trained_on(random_state(SHAPE, TOKENIZER), [book], tmp_path / "one")
    book.write_text("Other words, also many enough for a whole window.", encoding="utf-8")
    code, out, err = run(file)
    assert (code, out) == (1, "")
    assert f"{book}: these are not the texts that the model was trained on; give some with --data" in err
    book.unlink()
    code, out, err = run(file)
    assert code == 1 and str(book) in err and "give some with --data" in err
    assert run(saved(random_state(SHAPE, TOKENIZER), tmp_path / "none"))[0] == 2


def test_the_tokens_beside_the_checkpoint_serve_where_the_texts_are_gone(tmp_path, book):
    file = trained_on(random_state(SHAPE, TOKENIZER), [book], tmp_path / "one")
    (file.parent / "data").mkdir()
    (file.parent / "elsewhere" / "x.tokens").rename(file.parent / "data" / "pretraining.tokens")
    book.unlink()
    assert run(file)[0] == 0


def test_dialogues_count_exact_answers(tmp_path):
    state = chain_of("嗨你好呀", "用户助手：不是")
    file = saved(state, tmp_path)
    chats = tmp_path / "chats.json"
    chats.write_text(
        json.dumps(["用户：嗨助手：好呀", "用户：是助手：不"], ensure_ascii=False), encoding="utf-8"
    )
    rows = json.loads(run(file, "--chat-data", chats, "--json")[1])[0]["rows"]
    assert rows[0]["answers"] == 2 and rows[0]["tokens"] == 5
    assert " of 2" in run(file, "--chat-data", chats)[1]
    assert (
        json.loads(run(file, "--chat-data", chats, "--json", "--answers=0")[1])[0]["rows"][0]["answers"]
        is None
    )


@pytest.mark.parametrize("argument", ["--workers=0", "--answers=-1", "--worst=-1", "--nothing"])
def test_wrong_options_exit_2(argument):
    assert run("model.bin", argument)[0] == 2


# ---- the log of a run


def test_the_log_begins_with_what_simple_models_lose_and_a_resume_repeats_it(tmp_path, state, corpus):
    config = Config(SHAPE, TrainConfig(batch_size=2), DataConfig(val_fraction=0.2))
    dataset = Dataset(corpus, config, "pretraining")
    state.progress.step = 7
    for resumed in (False, True):
        with metrics.Metrics(tmp_path) as log:
            header.write_header(log, state, {"pretraining": dataset, "instruction_tuning": dataset}, resumed)
    lines = metrics.read(tmp_path / metrics.FILE_NAME)
    assert [(line["event"], line["step"], line["phase"]) for line in lines] == [
        ("baselines", 0, "pretraining"), ("baselines", 0, "instruction_tuning"), ("resume", 7, "pretraining"),
    ]  # fmt: skip
    expected = Counts.of(Passages.of(corpus, dataset.training), TOKENIZER.vocab_size).entropies()
    assert lines[0]["baseline/uniform"] == math.log(TOKENIZER.vocab_size)
    assert (lines[0]["baseline/unigram"], lines[0]["baseline/bigram"]) == expected
