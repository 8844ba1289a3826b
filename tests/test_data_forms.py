"""Every form of data in the tables of docs/data.md is read and trained on, or refused, as its row says."""

import gzip
import importlib
import json
import re
import shlex
from itertools import groupby
from pathlib import Path

import pytest

from tinyllm.cli.main import main
from tinyllm.config import DataConfig
from tinyllm.text.files import DataError
from tinyllm.text.texts import Texts

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
ENCODINGS = {"utf-16.txt": "utf-16", "gb18030.txt": "gb18030", "latin-1.txt": "latin-1"}
EXTRAS = {".zst": ("zstandard", "zstd"), ".parquet": ("pyarrow", "parquet")}
TINY = shlex.split(
    "--tokenizer char --n-layer 1 --n-head 2 --n-embd 16 --block-size 4 --batch-size 4 --max-steps 1 --plain"
)


def rows(last):
    """Return file, options, content and code spans of the last column, of the table with that column."""
    found = []
    (table,) = re.findall(rf"(?m)^\| File .* {last} \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE.read_text("utf-8"))
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        spans = [
            [
                span.replace("\\|", "|").replace("⏎", "\n").replace("⇥", "\t")
                for span in re.findall("`([^`]+)`", cell)
            ]
            for cell in cells
        ]
        (name,), options, (content,), becomes = spans
        found.append((name, shlex.split("".join(options)), content, becomes))
    return found


READ, REFUSED = rows("Becomes"), rows("The error says")


def installed(name):
    """Return whether the extra that a file needs is installed; skip nothing silently: see its refusal."""
    module = EXTRAS.get(Path(name).suffix, ("json", ""))[0]
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def write(folder, name, content):
    """Write a row's file in its form."""
    path = folder / name
    data = content.encode(ENCODINGS.get(name, "utf-8"))
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst" and installed(name):
        data = importlib.import_module("zstandard").compress(data)
    elif path.suffix == ".parquet" and installed(name):
        arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(arrow.Table.from_pylist(json.loads(content)), path)
        return path
    path.write_bytes(data)
    return path


def texts(path, options):
    """Return the texts of a file as the command line with these options reads them."""
    names = iter(option for option in options if option != "--chat-data")
    data = {n.removeprefix("--"): True if n == "--documents" else next(names) for n in names}
    return Texts([path], dialogues="--chat-data" in options, data=DataConfig(**data))


def documents(texts):
    """Return the documents as the page shows them: prompts in brackets."""
    found, segments = [], []
    for text in texts:
        segments += text.segments
        if text.ends:
            parts = groupby(segments, key=lambda segment: segment.carries_loss)
            joined = [(loss, "".join(segment.text for segment in part)) for loss, part in parts]
            found.append("".join(part if loss else f"⟦{part}⟧" for loss, part in joined))
            segments = []
    return found


@pytest.mark.parametrize(("name", "options", "content", "becomes"), READ, ids=[row[0] for row in READ])
def test_a_form_is_read_as_the_page_says(tmp_path, name, options, content, becomes):
    path = write(tmp_path, name, content)
    if installed(name):
        assert documents(texts(path, options)) == becomes
    else:
        module, extra = EXTRAS[path.suffix]
        with pytest.raises(DataError, match=rf"needs {module}.*: pip install 'tinyllm\[{extra}\]'"):
            list(texts(path, options))


@pytest.mark.parametrize(("name", "options", "content", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_form_is_refused_as_the_page_says(tmp_path, capsys, name, options, content, words):
    path = write(tmp_path, name, content)
    how = [] if options else ["--data"]
    assert main(["train", "--checkpoint-dir", str(tmp_path / "run"), *TINY, *how, *options, str(path)]) == 1
    message = capsys.readouterr().err
    assert words[0] in message and name in message and message.endswith("; see docs/data.md\n")


def test_a_folder_of_all_forms_is_trained_on(tmp_path, capsys):
    folder = tmp_path / "forms"
    folder.mkdir()
    plain = [write(folder, name, content) for name, o, content, _ in READ if not o and installed(name)]
    assert len(plain) >= 24
    chats = [path for path in plain if any("⟦" in text for text in documents(texts(path, [])))]
    run = ["train", "--checkpoint-dir", str(tmp_path / "run"), *TINY, "--suffix", ".md,.py"]
    assert main([*run, "--pretraining-data", str(folder), "--chat-data", *map(str, chats)]) == 0
    found = capsys.readouterr().err
    assert "ignored" not in found and "fields that are not read: 'category'" in found


@pytest.mark.parametrize(
    ("name", "options", "content"),
    [row[:3] for row in READ if row[1] and "--chat-data" not in row[1]],
    ids=[row[0] for row in READ if row[1] and "--chat-data" not in row[1]],
)
def test_an_option_reaches_the_texts_and_is_remembered(tmp_path, capsys, name, options, content):
    path = write(tmp_path, name, content)
    run = ["train", "--checkpoint-dir", str(tmp_path / "run"), "--plain", "--no-samples"]
    assert main([*run, *TINY, *options, "--data", str(path)]) == 0
    assert main([*run, "--resume", "--max-steps", "2"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "--max-steps: 1 -> 2"


def test_a_folder_of_texts_may_be_that_of_the_run(tmp_path, capsys):
    for name in ("book.txt", "._book.txt"):
        write(tmp_path, name, "One day. It rained. " * 9)
    run = ["train", "--checkpoint-dir", str(tmp_path), *TINY, "--no-samples", "--suffix", ".html"]
    assert main([*run, "--data", str(tmp_path), "--strategy", "periodic:1"]) == 0
    assert {"metrics.jsonl", "report.html", "model_final.bin"} <= {path.name for path in tmp_path.iterdir()}
    first = capsys.readouterr().err
    assert main([*run, "--resume", "--max-steps", "2"]) == 0
    for notices in (first, capsys.readouterr().err):
        assert re.search(r"ignored . (entry|entries), hidden or not .*: \._book.txt", notices)


def test_a_link_into_a_cache_of_files_without_suffix_is_trained_on_and_resumed(tmp_path, capsys):
    blob = write(tmp_path, "0f3a", json.dumps({"text": "One day. It rained. " * 9}))
    link = tmp_path / "snapshot" / "train.jsonl"
    link.parent.mkdir()
    link.symlink_to(blob)
    run = ["train", "--checkpoint-dir", str(tmp_path / "run"), "--plain", "--no-samples"]
    assert main([*run, *TINY, "--data", str(link)]) == 0
    assert "182 tokens in 1 document," in capsys.readouterr().out  # of the text, not of the JSON
    assert main([*run, "--resume", "--max-steps", "2"]) == 0
