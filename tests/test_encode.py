"""`tinyllm tokenize`: what it shows of a text, ids and back, and what it refuses."""

from __future__ import annotations

import io

import pytest

from tests.models import chain_of, random_state, saved
from tests.runs import SMALL
from tinyllm import encode
from tinyllm.text.tokenizer import train_bpe

TEXT = "the cat sat on the mat the cat sat"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(random_state(SMALL, train_bpe([TEXT], 262)), tmp_path_factory.mktemp("model"))


def said(model, *words: str, stdin: str = "") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = encode.main([str(model), *words], io.StringIO(stdin), out, err)
    return code, out.getvalue(), err.getvalue()


def test_it_shows_each_token_where_it_ends_and_how_many_bytes_one_has(model):
    pieces = train_bpe([TEXT], 262).pieces
    code, out, err = said(model, "--prompt", "the 猫")
    marks, _, head, *rows, _, count = out.splitlines()
    assert (code, err, head) == (0, "", "     id  bytes  token")
    assert marks == "the| |\\xe7|\\x8c|\\xab"
    assert [row.split(maxsplit=2)[2] for row in rows] == ["'the'", "' '", r"b'\xe7'", r"b'\x8c'", r"b'\xab'"]
    ids = [int(row.split()[0]) for row in rows]
    assert b"".join(pieces[i] for i in ids).decode() == "the 猫"
    assert [int(row.split()[1]) for row in rows] == [3, 1, 1, 1, 1]
    assert count == "5 characters, 7 bytes, 5 tokens: 1.40 bytes per token"
    assert said(model, "--prompt", "")[1].endswith("0 characters, 0 bytes, 0 tokens\n")


def test_ids_and_decode_are_each_others_inverse_and_a_folder_will_do(model):
    text = "the cat\n 猫🐱"
    ids = said(model, "--ids", stdin=text + "\n")[1]
    assert ids == " ".join(map(str, train_bpe([TEXT], 262).encode(text))) + "\n"
    assert said(model.parent, "--decode", "-", stdin=ids)[1] == text + "\n"
    assert said(model, "--decode", *ids.split())[1] == text + "\n"
    assert said(model, "--decode", ids.replace(" ", ","))[1] == text + "\n"


def test_what_cannot_be_is_an_error_in_words(model, tmp_path, capsys):
    assert said(model, "--decode", "12", "x") == (
        2,
        "",
        "error: --decode: found 'x', expected ids, such as 72 105\n",
    )
    code, _, err = said(model, "--decode", "9999")
    assert code == 1 and "id 9999: expected 0 to 261" in err
    assert said(tmp_path / "no.bin", "--ids")[0] == 1
    assert said(model, "--prompt", "\udcff")[::2] == (2, "error: --prompt: found bytes that are not UTF-8\n")
    characters = saved(chain_of("abc"), tmp_path)
    code, _, err = said(characters, "--prompt", "abz")
    assert code == 1 and "found 'z'" in err
    with pytest.raises(SystemExit) as end:
        encode.options([str(model), "--prompt", "x", "--decode", "1"])
    assert end.value.code == 2 and "give one of them" in capsys.readouterr().err


def test_a_terminal_is_shown_no_control_characters(model):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    assert encode.main([str(model), "--decode", "27", "91", "50", "74"], io.StringIO(), out) == 0
    assert out.getvalue() == "\\x1b[2J\n"
    assert "\x1b" not in said(model, "--prompt", "\x1b[2J")[1]
