"""Files become the documents they hold, or an error that names the position; the digest is theirs alone."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.config import DataConfig
from tinyllm.option import ConfigError
from tinyllm.text import bpe, files
from tinyllm.text.dialogue import Segment
from tinyllm.text.files import DataError, File
from tinyllm.text.findings import END_MARKERS
from tinyllm.text.json_entries import json_entries
from tinyllm.text.records import is_message
from tinyllm.text.texts import SUFFIXES, Text, Texts, digest, natural, strings, training_sample

KNOWN = ", ".join(SUFFIXES)
ENCODINGS = ["gb18030", "utf-16", "utf-16-le", "utf-8-sig", "utf-7"]


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns its path."""

    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def read(*paths, dialogues=False, **options):
    """Return the documents as plain strings, the pieces of a stream joined."""
    found, parts = [], []
    for text in Texts(paths, dialogues=dialogues, data=DataConfig(**options)):
        parts += [segment.text for segment in text.segments]
        if text.ends:
            found.append("".join(parts))
            parts = []
    assert not parts
    return found


def pieces(path):
    return list(Texts([path], dialogues=False))


def elements(path):
    """Yield (number, entry) of an array."""
    for where, entry in json_entries(File(path), is_message):
        yield int(where.removeprefix("entry ")), entry


def refusal(*paths, **options):
    with pytest.raises(DataError) as error:
        read(*paths, **options)
    return str(error.value)


# Plain text.


def test_a_txt_file_is_one_stream(write):
    path = write("a.txt", "One.\n\nTwo.\n")
    assert read(path) == ["One.\n\nTwo.\n"]
    assert all(text.stream for text in pieces(path))


def test_documents_stand_between_blank_lines(write):
    path = write("a.txt", "\n \nOne\n  more\n\nTwo\n \t\n\n\nThree")
    assert read(path, documents=True) == ["One\n  more", "Two", "Three"]


def test_byte_order_mark_and_crlf_change_nothing(write):
    plain, marked = write("a.txt", "Ä\nb\n\nc\n"), write("b.txt", b"\xef\xbb\xbf\xc3\x84\r\nb\r\n\r\nc\r\n")
    assert read(plain) == read(marked)
    assert read(plain, documents=True) == read(marked, documents=True)


@given(st.text(st.sampled_from("aé中😀 \r\n."), max_size=60), st.integers(1, 7))
def test_a_stream_read_in_small_pieces_is_the_whole_text(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("stream") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", size)
        patch.setattr(files, "LONGEST_PIECE", 4 * size)
        normal = text.replace("\r\n", "\n")
        assert "".join(files.pieces(File(path))) == normal
        lines = [line if line.strip() else "" for line in normal.split("\n")]
        expected = [part.strip("\n") for part in "\n".join(lines).split("\n\n")]
        assert list(files.paragraphs(File(path))) == [part for part in expected if part]


@given(st.text(st.sampled_from("ab1 中.\n'"), max_size=80))
def test_a_stream_is_cut_where_no_token_changes(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("stream") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", 5)
        chunks = [chunk for piece in files.pieces(File(path)) for chunk in bpe.split(piece)]
    assert chunks == bpe.split(text)


def test_a_stream_without_any_safe_cut_is_still_read_in_pieces(write, monkeypatch):
    monkeypatch.setattr(files, "PIECE", 10)
    monkeypatch.setattr(files, "LONGEST_PIECE", 40)
    found = pieces(write("a.txt", "中" * 500))
    assert max(len(text.segments[0].text) for text in found) < 50
    assert [text.ends for text in found] == [False] * (len(found) - 1) + [True]


# JSON.


ENTRIES = [
    "plain",
    {"text": "in an object", "source": "ignored"},
    {"prompt": "你好", "response": "好"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
]
DOCUMENTS = ["plain", "in an object", "用户：你好助手：好", "User: hi Assistant: hello"]


def test_json_and_json_lines_take_the_same_entries(write):
    assert read(write("a.json", json.dumps(ENTRIES))) == DOCUMENTS
    assert read(write("a.jsonl", "\r\n".join(map(json.dumps, ENTRIES)) + "\n\n")) == DOCUMENTS
    assert read(write("b.json", b"\xef\xbb\xbf" + json.dumps(ENTRIES, indent=1).encode())) == DOCUMENTS
    assert read(write("b.jsonl", b"\xef\xbb\xbf" + json.dumps(ENTRIES[0]).encode())) == DOCUMENTS[:1]


def test_prompts_carry_no_loss_and_answers_do(write):
    path = write("a.json", json.dumps([*ENTRIES[2:], "用户：一助手：二"]))
    texts = list(Texts([path], dialogues=True))
    dialogue = [False, False, False, True]
    assert [[segment.carries_loss for segment in text.segments] for text in texts] == [dialogue] * 3


@pytest.mark.parametrize(
    ("entries", "system"),
    [
        (["s用户：一助手：二", "s用户：三助手：四", "plain"], "s"),
        (["s用户：一助手：二", "t用户：三助手：四"], ""),
        (["s用户：一助手：二", "用户：三助手：四"], ""),
        (["用户：一助手：二"], ""),
    ],
)
@pytest.mark.parametrize("separate", [True, False])
def test_the_system_text_that_all_dialogues_share_is_known_after_an_iteration(
    write, entries, system, separate
):
    path = write("a.json", json.dumps(entries))
    texts = Texts([path], dialogues=True, data=DataConfig(separate_markers=separate))
    for _ in range(2):
        assert sum(1 for _ in texts) == len(entries) and texts.system == system


def test_prompts_are_one_segment_where_markers_are_not_separate(write):
    path = write("a.json", json.dumps(["s用户：一助手：二"]))
    (text,) = Texts([path], dialogues=True, data=DataConfig(separate_markers=False))
    assert text.segments == (Segment("s\n用户：一助手：", False), Segment("二"))


def test_strings_are_parsed_as_conversations_only_when_they_are_said_to_be(write):
    path = write("a.json", json.dumps(["用户：一助手：二"]))
    assert len(next(iter(Texts([path], dialogues=False))).segments) == 1
    assert len(next(iter(Texts([path], dialogues=True))).segments) == 4


def test_paragraphs_of_a_txt_file_can_be_conversations(write):
    path = write("a.txt", "用户：一\n助手：二\n\nUser: a\nAssistant: b\n")
    assert read(path, dialogues=True) == ["用户：一助手：二", "User: a Assistant: b"]


def test_strings_without_markers_are_learnt_whole_and_counted_in_a_notice(write):
    texts = Texts([write("a.json", '["天气", "用户：一助手：二", "b"]')], dialogues=True)
    assert [len(text.segments) for text in texts] == [1, 4, 1]
    assert texts.notices[0].startswith("2 entries without the form of a conversation")
    list(texts)
    assert len(texts.notices) == 1


def test_nul_and_lone_surrogates_pass_through(write):
    assert read(write("a.json", r'["a\u0000b\ud800"]')) == ["a\0b\ud800"]
    digest([Text((Segment("\ud800"),))])


def test_empty_strings_are_skipped(write):
    entries = ["", {"text": ""}, {"prompt": " ", "response": ""}, {"messages": []}, "a"]
    assert read(write("a.json", json.dumps(entries))) == ["a"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
        lambda inside: (
            st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=3), inside, max_size=3)
        ),
        max_leaves=12,
    ),
    st.integers(1, 9),
    st.sampled_from([None, 1]),
)
def test_an_array_read_in_small_pieces_has_the_entries_of_the_whole(tmp_path_factory, value, size, indent):
    entries = value if isinstance(value, list) else [value]
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(entries, indent=indent, ensure_ascii=size % 2 == 0), "utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", size)
        found = list(elements(path))
    assert found == list(enumerate(json.loads(path.read_text("utf-8")), 1))


def test_of_a_long_array_little_is_in_memory(write):
    path = write("a.json", json.dumps(["word " * 200] * 20_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in elements(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8 * files.PIECE < path.stat().st_size / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl"])
def test_the_bytes_of_every_read_are_reported(write, monkeypatch, name):
    monkeypatch.setattr(files, "PIECE", 10)
    contents = {"a.txt": "Some words.\n\n" * 9, "a.json": '["one",\n"two"]', "a.jsonl": '"one"\n"two"\n'}
    paths = [write("first/b.txt", "twenty bytes of text"), write(name, contents[name])]
    sizes = [path.stat().st_size for path in paths]
    texts = Texts(paths, dialogues=False)
    reported = []
    texts.on_progress = lambda done, total: reported.append((done, total))
    for _ in range(2):
        reported.clear()
        list(texts)
        assert [done for done, _ in reported] == sorted(done for done, _ in reported)
        assert reported[-1] == (sum(sizes), sum(sizes)) and {total for _, total in reported} == {sum(sizes)}


# Refusals.


def test_bytes_that_are_not_utf8_are_named_with_file_and_offset(write, monkeypatch):
    good = "é" * 9
    for name, content in [("a.txt", good.encode() + b"\xff."), ("b.txt", good.encode() + b"\xc3")]:
        for size in (1, 2, 5, 100):
            monkeypatch.setattr(files, "PIECE", size)
            found = refusal(write(name, content))
            assert name in found and "offset 18" in found
    found = refusal(write("c.txt", b"\xef\xbb\xbf" + good.encode() + b"\x80"))
    assert "0x80 at offset 21" in found
    assert "0xff at offset 4" in refusal(write("a.json", b'["aa\xff"]'))
    assert "0xff at offset 9" in refusal(write("a.jsonl", b'"one"\n"aa\xff"\n'))


def test_bad_json_is_named_with_file_line_and_column(write):
    assert "a.json: line 2, column 5" in refusal(write("a.json", '["a",\n"b" "c"]'))
    assert "a.jsonl: line 3, column 2" in refusal(write("a.jsonl", '"a"\n\n[}\n'))
    assert "a.json: line 1" in refusal(write("a.json", "[" * 100_000))
    assert "line 2, column 3: found invalid JSON: Extra data" in refusal(write("a.json", '["a"]\n  ,'))
    assert "line 1, column 6: found invalid JSON" in refusal(write("a.json", '["a",]'))
    assert "a.json: line 1" in refusal(write("a.json", "[" + "1" * 10_000 + "]"))


@given(st.text(st.sampled_from('[]{},:"a1 \n\\'), max_size=30), st.integers(1, 9))
def test_what_is_no_json_is_refused_at_the_place_where_it_is_not(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("array") / "a.json"
    content = f'["one",{text}'
    path.write_text(content)
    try:
        expected = list(enumerate(json.loads(content), 1))
    except json.JSONDecodeError as error:
        expected = f"line {error.lineno}, column {error.colno}: found invalid JSON: {error.msg}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", size)
        try:
            found = list(elements(path))
        except DataError as error:
            found = str(error).removeprefix(f"{path}: ").removesuffix("; see docs/data.md")
            found = found.partition(" (in the entry")[0]
    assert found == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (3, "entry 2: found a number, expected a string, a list of messages, or an object"),
        (None, "entry 2: found null"),
        (["a"], "entry 2: found a list"),
        (
            {"title": "a", "body": 1},
            "entry 2: found an object with the fields 'title' (a string), 'body' (a number), expected",
        ),
        ({"prompt": "a"}, "entry 2: found an object with the fields 'prompt' (a string), expected"),
        ({"text": 1}, "entry 2: found 'text': a number, expected a string"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "message 1: found the role 'tool', expected one of system, user, assistant",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "found an object with the fields 'role' (a string), 'content' (null), expected the strings",
        ),
        ({"messages": ["hi"]}, "message 1: found a string, expected an object with role and content"),
    ],
)
def test_an_entry_of_another_shape_is_named(write, entry, expected):
    assert expected in refusal(write("a.json", json.dumps(["fine", entry])))


def test_paths_without_text_are_refused(write, tmp_path):
    assert "missing.txt: not found" in refusal(tmp_path / "missing.txt")
    assert "a.pdf: found the suffix '.pdf', expected text or .txt" in refusal(write("a.pdf", "text"))
    assert "found no text" in refusal(write("a.txt", ""))
    assert "found no text" in refusal(write("a.json", "[]"))
    assert "found no text" in refusal(write("empty/a.md", "text").parent)
    assert "expected at least one" in refusal()


ANSWERED = {"prompt": "a", "response": "b"}


@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        (ANSWERED | {"label": 0}, "found 'label': 0"),
        (ANSWERED | {"Label": "False"}, "found 'Label': 'False'"),
        (ANSWERED | {"label": True}, ""),
        ({"text": "a", "label": False}, "found 'label': False"),
        ({"text": "a", "label": 0}, ""),
        ({"text": "a", "weight": 0.5}, "found 'weight': 0.5"),
        (ANSWERED | {"weight": "1", "system": None, "history": [], "tools": []}, ""),
        (ANSWERED | {"history": [["a"]]}, "found history of a list, expected pairs of strings"),
        (ANSWERED | {"input": 3}, "found 'input': a number"),
        (ANSWERED | {"text": "Q: a A: b"}, ""),
        (ANSWERED | {"text": "another"}, "found 'text' beside turns"),
        ({"input": "a", "output": "b"}, ""),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "message 1: found 'tool_calls'"),
        ([{"role": "user", "content": "a"}, {"from": 3, "value": "b"}], "message 2: found 'from': a number"),
    ],
)
def test_what_would_change_the_meaning_is_used_or_refused(write, entry, refused):
    path = write("a.jsonl", json.dumps(entry))
    if refused:
        assert refused in refusal(path)
    else:
        assert len(read(path)) == 1


# Folders.


def test_a_folder_is_read_in_natural_order_without_its_subfolders(write):
    for name in ("a10.txt", "a2.txt", "a2b10.txt", "a2b9.json", "B.TXT"):
        folder = write(f"f/{name}", f'["{name}"]' if name.endswith("json") else name).parent
    write("f/notes.md", "ignored")
    write("f/sub/a1.txt", "ignored")
    write("f/a3.txt", "")
    texts = Texts([folder], dialogues=False)
    found = "".join(text.segments[0].text + " " * text.ends for text in texts).split()
    assert found == ["B.TXT", "a2.txt", "a2b9.json", "a2b10.txt", "a10.txt"]
    assert "ignored 2" in texts.notices[0] and "notes.md" in texts.notices[0]
    assert "a3.txt: contains no text" in texts.notices[1]


@given(st.lists(st.text(st.sampled_from("a01²９-"), min_size=1), unique=True))
def test_natural_order_is_total(tmp_path_factory, names):
    paths = [tmp_path_factory.getbasetemp() / name for name in names]
    assert sorted(paths, key=natural) == sorted(reversed(paths), key=natural)


def test_several_sources_follow_each_other_as_given(write):
    assert read(write("b.txt", "one"), write("a.json", '["two"]')) == ["one", "two"]


def test_hidden_files_and_files_of_a_run_are_not_read(write):
    folder = write("f/book.txt", "words").parent
    write("f/._book.txt", b"\x00\x05\x16\x07 not text")
    write("f/metrics.jsonl", '{"step": 1}')
    texts = Texts([folder], dialogues=False, is_ours=lambda path: path.name == "metrics.jsonl")
    assert [text.segments[0].text for text in texts] == ["words"]
    assert texts.notices == [f"{folder}: ignored 1 entry, hidden or not {KNOWN}: ._book.txt"]
    assert read(write("f/.named.txt", "hidden, but named")) == ["hidden, but named"]


def test_a_link_counts_by_its_own_name_or_else_by_its_targets(write, tmp_path):
    blob, data = write("blobs/0f3a", '{"text": "one"}'), write("data.jsonl", '{"text": "two"}')
    for name, target in (("f/a.jsonl", blob), ("f/latest", data)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    assert (
        read(tmp_path / "f") == read(tmp_path / "f" / "a.jsonl", tmp_path / "f" / "latest") == ["one", "two"]
    )
    packed = write("blobs/c.jsonl.gz", gzip.compress(b'{"text": "three"}'))
    (tmp_path / "newest").symlink_to(packed)
    assert read(tmp_path / "newest") == ["three"]
    (tmp_path / "round.txt").symlink_to(tmp_path / "round.txt")
    assert "round.txt: not found" in refusal(tmp_path / "round.txt")


def test_a_file_without_a_suffix_is_text_and_said_to_be(write):
    path = write("README", "words")
    texts = Texts([path], dialogues=False)
    assert [text.segments[0].text for text in texts] == ["words"]
    assert texts.notices == [f"{path}: has no suffix, read as plain text"]


def test_of_a_folder_more_suffixes_are_read_when_asked_for(write):
    for name in ("f/a.md", "f/b.PY", "f/c.txt.gz", "f/d.md.gz"):
        content = name.encode()
        folder = write(name, gzip.compress(content) if name.endswith("gz") else content).parent
    assert read(folder) == ["f/c.txt.gz"]
    assert read(folder, suffix=".md, .py") == ["f/a.md", "f/b.PY", "f/c.txt.gz", "f/d.md.gz"]


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert "found a pipe or a device" in refusal(tmp_path / "a.txt")
    assert "found a pipe or a device" in refusal(Path("/dev/zero"))


def test_a_named_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert "found no text" in refusal(tmp_path)


# Encodings and packed files.


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.csv"])
def test_a_byte_order_mark_says_the_encoding_of_every_form(write, monkeypatch, encoding, name):
    content = {"a.txt": "中\r\né😀", "a.json": '["中\\né😀"]', "a.csv": 'text\r\n"中\né😀"\r\n'}[name]
    for size in (1, 3, 100):
        monkeypatch.setattr(files, "PIECE", size)
        assert "".join(read(write(name, content.encode(encoding)), encoding="gb18030")) == "中\né😀"


@given(st.text(st.sampled_from("aé中😀\r\n"), max_size=30), st.integers(1, 7), st.sampled_from(ENCODINGS))
def test_a_named_encoding_is_read_in_pieces(tmp_path_factory, text, size, encoding):
    path = tmp_path_factory.mktemp("encoded") / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", size)
        assert "".join(files.pieces(File(path, encoding))) == text.replace("\r\n", "\n")


def test_bytes_of_another_encoding_are_named(write, monkeypatch):
    path = write("a.txt", "中文".encode("gb18030") + b"\xff")
    for size in (1, 3, 100):
        monkeypatch.setattr(files, "PIECE", size)
        assert "0xff at offset 4, expected GB18030" in refusal(path, encoding="gb18030")
    assert "0xd6 at offset 0, expected UTF-8" in refusal(path) and "--encoding gb18030" in refusal(path)


@pytest.mark.parametrize("encoding", ["", "nonsense", "hex", "rot13", "undefined", "a\0b"])
def test_an_encoding_that_is_none_of_text_is_refused(encoding):
    with pytest.raises(ConfigError, match="--encoding: found"):
        DataConfig(encoding=encoding)


def test_an_option_that_cannot_be_stored_is_refused():
    with pytest.raises(ConfigError, match="--separator: found"):
        DataConfig(separator="\udcff")


@pytest.mark.parametrize("suffix", ["md", ".md,", ".", ".md,py"])
def test_a_suffix_without_its_dot_is_refused(suffix):
    with pytest.raises(ConfigError, match="--suffix: found"):
        DataConfig(suffix=suffix)


def test_a_packed_file_that_is_damaged_is_refused(write):
    packed = gzip.compress(b"some words " * 99)
    for content in (b"no gzip", packed[:-9], packed[:20] + b"\xff" + packed[21:], packed + b"more"):
        assert "a.txt.gz: cannot be unpacked" in refusal(write("a.txt.gz", content))


def test_a_packed_file_is_unpacked_in_pieces_and_not_without_end(write, monkeypatch):
    path = write("a.txt.gz", gzip.compress(bytes(1 << 24)))
    monkeypatch.setattr(files, "LONGEST_ENTRY", 1 << 22)
    tracemalloc.start()
    try:
        assert "unpacks to more than 200 times its size" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name, content", [("a.json", '["%s"]'), ("a.csv", "text\n%s"), ("a.txt", "%s")])
def test_an_entry_that_does_not_fit_in_memory_is_refused(write, monkeypatch, name, content):
    monkeypatch.setattr(files, "LONGEST_ENTRY", 1000)
    monkeypatch.setattr(files, "PIECE", 100)
    found = refusal(write(name, content % ("words" * 500)), separator="|")
    assert name in found and ("1,000" in found or "limit (1000)" in found)


# What a person should know.


@pytest.mark.parametrize("marker", END_MARKERS)
def test_an_end_of_text_that_is_spelled_out_is_reported_with_the_way_out(write, marker):
    path = write("a.txt", f"One.{marker}Two.")
    texts = Texts([path], dialogues=False)
    list(texts)
    assert texts.notices == [
        f"{path}: {marker} is in the text as ordinary characters; --separator '{marker}' splits texts there"
    ]
    assert read(path, separator=marker) == ["One.", "Two."]


@given(st.lists(st.text(st.sampled_from("ab<"), max_size=5), max_size=9), st.integers(1, 9))
def test_a_separator_is_found_wherever_the_reads_are_cut(tmp_path_factory, parts, size):
    path = tmp_path_factory.mktemp("parts") / "a.txt"
    path.write_text("<|>".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE", size)
        assert list(files.separated(File(path), "<|>")) == "<|>".join(parts).split("<|>")


def test_fields_that_are_not_read_are_named(write):
    texts = Texts([write("a.jsonl", '{"text": "a", "id": 1}\n{"text": "b", "url": ""}')], dialogues=False)
    list(texts)
    assert texts.notices == ["fields that are not read: 'id', 'url'"]


@pytest.mark.parametrize(
    "content",
    ['["One."]', '{"messages": [{"role": "user", "content": "Hi"}]}', '{"prompt": "a", "response": ""}'],
)
def test_a_chat_file_without_any_conversation_is_refused(write, content):
    good = write("a.json", '["User: a Assistant: b"]')
    assert "b.json: found no conversation" in refusal(good, write("b.json", content), dialogues=True)


# All texts.

SEGMENTS = st.lists(st.builds(Segment, st.text("ab", max_size=3), st.booleans()), max_size=3)
CORPUS = st.lists(SEGMENTS, max_size=3)


def test_the_digest_knows_content_and_not_names_or_pieces(write, monkeypatch):
    one, other = write("a.txt", "word " * 100), write("x/y.txt", "word " * 100)
    whole = digest(pieces(one))
    monkeypatch.setattr(files, "PIECE", 64)
    assert len(pieces(other)) > 1
    assert digest(pieces(other)) == whole


@given(CORPUS, CORPUS)
def test_different_documents_have_different_digests(one, other):
    documents = [[Text(tuple(segments)) for segments in corpus] for corpus in (one, other)]
    assert (digest(documents[0]) == digest(documents[1])) == (one == other)


def test_the_same_letters_in_another_arrangement_have_another_digest():
    arrangements = [
        [Text((Segment("ab"),))],
        [Text((Segment("ab", False),))],
        [Text((Segment("a"), Segment("b")))],
        [Text((Segment("a"),), alternatives=((Segment("b"),),))],
        [Text((Segment("a"), Segment("b")), joins=True)],
        [Text((Segment("a"),)), Text((Segment("b"),))],
        [Text((Segment("ab"),), stream=True)],
        [Text((Segment("a"),), stream=True), Text((Segment("b"),), stream=True)],
    ]
    assert len({digest(texts) for texts in arrangements}) == len(arrangements)


@given(st.lists(st.text(st.sampled_from("abc"), max_size=50), max_size=40), st.integers(1, 400))
def test_a_sample_is_everything_or_evenly_spread_strings_within_the_limit(contents, limit):
    texts = [Text((Segment(content),)) for content in contents]
    everything = [content for content in contents if content]
    sample = training_sample(texts, limit)
    if sum(map(len, everything)) <= limit:
        assert sample == everything
    else:
        assert sum(map(len, sample)) <= max(limit, len(everything[0]))
        assert any(sample == everything[:: 2**power] for power in range(7))


def test_long_texts_give_short_strings():
    found = list(strings([Text((Segment("ab" * 5), Segment("c")))], longest=4))
    assert found == ["abab", "abab", "ab", "c"]
