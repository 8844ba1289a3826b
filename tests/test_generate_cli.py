"""generate: text on stdout and nothing else there, however it is asked for, streamed or ended."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import KNOWN, chain_of, chain_state, random_state, saved
from tinyllm import chat, generate
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata
from tinyllm.config import ModelConfig
from tinyllm.inference.beam import beam_search
from tinyllm.inference.language_model import load_model
from tinyllm.kernels import compile_decoding
from tinyllm.text.tokenizer import BPETokenizer

SMALL = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=12)
ROOT = Path(__file__).parents[1]


class Writes(io.StringIO):
    """A stream that remembers what was written at once."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)
        return super().write(text)


def run(*argv, stdin=""):
    """Return (exit code, stdout, stderr) of generate."""
    out, err = io.StringIO(), io.StringIO()
    try:
        code = generate.main([str(each) for each in argv], io.StringIO(stdin), out, err)
    except SystemExit as error:
        code = error.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Whether something must be compiled first, and is said to be, is another test's matter."""
    compile_decoding()


@pytest.fixture(scope="module")
def abc(tmp_path_factory):
    """A model that says the alphabet up to g, and the time of day."""
    return saved(chain_of("abcdefg 早上好", more="x\n"), tmp_path_factory.mktemp("abc"))


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    """A model of bytes with drawn weights."""
    return saved(random_state(SMALL, BPETokenizer(())), tmp_path_factory.mktemp("wild"))


def test_stdout_holds_the_continuation_of_the_prompt_and_a_newline(abc):
    assert run(abc, "--prompt", "ab") == (0, "cdefg\n", "")
    assert run(abc, "--prompt=早") == (0, "上好\n", "")


def test_echo_puts_the_prompt_before_the_text(abc):
    assert run(abc, "--prompt=ab", "--echo") == (0, "abcdefg\n", "")


def test_several_prompts_give_several_texts_one_below_the_other(abc):
    assert run(abc, "--prompt=ab", "--prompt=e", "--prompt=早") == (0, "cdefg\nfg\n上好\n", "")


def test_num_samples_gives_several_texts_for_each_prompt_the_first_as_if_alone(wild):
    options = ["--ignore-end", "--max-tokens=30", "--temperature=2"]
    code, out, err = run(wild, "--prompt=a", "--prompt=b", "--num-samples=3", "--echo", *options)
    assert (code, err) == (0, "")
    alone = run(wild, "--prompt=a", "--echo", *options)[1]
    assert out.startswith(alone)
    assert out == run(wild, *["--prompt=a"] * 3, *["--prompt=b"] * 3, "--echo", *options)[1]
    assert out == run(wild, "--prompt=a", "--prompt=b", "--num-samples=3", "--echo", "--stream", *options)[1]
    assert (
        out
        == run(wild, "--prompt=a", "--prompt=b", "--num-samples=3", "--echo", "--blas-threads=1", *options)[1]
    )
    assert len(set(run(wild, "--num-samples=9", *options)[1].split("\n"))) >= 9


def test_what_must_be_compiled_first_is_said(abc, tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    first = subprocess.run(
        [sys.executable, "-m", "tinyllm.generate", str(abc), "--prompt=ab", "--blas-threads=1"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert first.stdout == "cdefg\n"
    note, *_ = first.stderr.splitlines()  # what follows is NumPy's, of kernels that are not compiled
    assert note == "note: compiling the generation kernels, once; this takes a few seconds"


def test_the_prompt_dash_is_stdin_without_its_last_newline(abc):
    assert run(abc, "--prompt", "-", stdin="ab\n") == (0, "cdefg\n", "")


def test_the_text_is_at_most_max_tokens_long(abc):
    assert run(abc, "--prompt=a", "--max-tokens=3") == (0, "bcd\n", "")


def test_a_model_that_ends_at_once_is_not_silent(abc):
    code, out, err = run(abc, "--prompt=g")
    assert (code, out) == (0, "\n")
    assert "ended the text at once" in err
    assert len(run(abc, "--prompt=g", "--ignore-end", "--max-tokens=7")[1]) == 8


def test_streaming_writes_whole_characters_as_they_come_and_the_same_text(tmp_path):
    follows = dict(itertools.pairwise("é中🙂".encode()))
    file = saved(chain_state(BPETokenizer(()), follows), tmp_path)
    out = Writes()
    prompt = ["--prompt=é", "--temperature=0"]
    assert generate.main([str(file), *prompt, "--stream"], io.StringIO(), out, io.StringIO()) == 0
    assert out.pieces == ["中", "🙂", "\n"]
    assert run(file, *prompt) == (0, "中🙂\n", "")


def test_bytes_that_are_no_text_are_drawn_again_streamed_or_not(wild):
    options = ["--max-tokens=300", "--ignore-end"]
    plain = run(wild, *options)
    assert plain == run(wild, *options, "--stream")
    assert plain[0] == 0 and len(plain[1]) > 50 and "\ufffd" not in plain[1]
    for others in (["--temperature=0"], ["--temperature=3"], ["--num-samples=3"]):
        assert "\ufffd" not in run(wild, *options, *others)[1]
    assert "\ufffd" not in run(wild, "--beams=3", "--max-tokens=7")[1]


def test_the_same_seed_draws_the_same_text_and_another_another(wild):
    texts = [run(wild, "--prompt=hi", f"--seed={seed}", "--ignore-end")[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_beams_write_the_best_text_that_the_search_finds(wild):
    model = load_model(wild)
    best = beam_search(model.decoder(3), model.prompt("hi"), 256, 5, 1.0, model.tokenizer.states)[0]
    expected = "".join(model.tokenizer.stream(best.tokens)) + "\n"
    assert run(wild, "--prompt=hi", "--beams=3", "--max-tokens=5")[1] == expected


def test_of_a_run_generate_takes_pretraining_and_chat_takes_instruction_tuning(tmp_path):
    """Of two phases, each program says which file it took; stdout holds the text alone."""
    with CheckpointManager(tmp_path) as manager:
        for epoch, (phase, word) in enumerate((("pretraining", "ab"), ("instruction_tuning", "ac")), 1):
            metadata = CheckpointMetadata(epoch, 1.0, 1e-3, "2026-01-01 00:00:00", phase)
            manager.save_checkpoint(chain_of(f"{word} ：嗨", more=KNOWN), metadata)
    code, out, err = run(tmp_path, "--prompt=a")
    assert (code, out) == (0, "b\n") and err.endswith("checkpoint_best_epoch_1_loss_1.0000.bin\n")
    out, err = io.StringIO(), io.StringIO()
    assert chat.main([str(tmp_path), "--prompt=天"], io.StringIO(), out, err) == 0
    assert out.getvalue() == "嗨\n" and err.getvalue().endswith("checkpoint_best_epoch_2_loss_1.0000.bin\n")


def test_a_prompt_longer_than_the_window_is_said_to_be_cut(wild):
    code, out, err = run(wild, "--prompt", "a" * 100, "--max-tokens=30", "--ignore-end")
    assert code == 0 and len(out) > 1
    assert "the prompt has 101 tokens; the model sees only the end of it" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature=-1"], "--temperature: found -1.0, expected at least 0"),
        (["--temperature=nan"], "--temperature: found nan"),
        (["--top-p=0"], "--top-p: found 0.0, expected more than 0 and at most 1"),
        (["--top-k=-3"], "--top-k: found -3"),
        (["--top-k=1.5"], "--top-k: found '1.5', expected a whole number"),
        (["--repetition-penalty=0"], "--repetition-penalty: found 0.0"),
        (["--max-tokens=0"], "--max-tokens: found 0, expected at least 1"),
        (["--beams=0"], "--beams: found 0"),
        (["--num-samples=0"], "--num-samples: found 0"),
        (["--beams=2", "--num-samples=2"], "drop --num-samples"),
        (["--beams=2", "--top-k=3", "--stream"], "drop --top-k, --stream"),
        (["--seed=-1"], "--seed: found -1"),
        (["--blas-threads=0"], "--blas-threads: found 0"),
        (["--temp=1"], "unknown option --temp: did you mean --temperature?"),
        (["--tempreature=1"], "unknown option --tempreature: did you mean --temperature?"),
    ],
)
def test_a_wrong_option_is_named_and_ends_with_2(abc, capsys, options, message):
    code, out, _ = run(abc, *options)
    assert (code, out) == (2, "")
    assert message in capsys.readouterr().err


def test_what_fails_is_one_line_on_stderr_and_ends_with_1(abc, tmp_path):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(abc.read_bytes()[:-1])
    nan = chain_of("ab")
    nan.layout.views(nan.rows[0]).norm.bias[:] = 1e38  # finite, as a checkpoint must be; the logits are not
    nan.layout.views(nan.rows[0]).embedding.token[:] = 1e38
    for argv, message in [
        ([tmp_path / "missing.bin"], "missing.bin"),
        ([broken], "broken.bin"),
        ([tmp_path], "no valid checkpoint here"),
        ([abc, "--prompt=aÄ"], "found 'Ä'"),
        ([saved(nan, tmp_path / "nan"), "--prompt=a"], "weights are broken"),
    ]:
        code, out, err = run(*argv)
        assert (code, out) == (1, "")
        assert re.fullmatch(r"error: .*\n", err) and message in err


def test_bytes_of_a_prompt_that_are_not_utf8_are_refused(abc):
    code, out, err = run(abc, "--prompt=a\udcff")
    assert (code, out) == (2, "") and "not UTF-8" in err


def program(*argv, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        [sys.executable, "-m", "tinyllm.generate", *map(str, argv)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.mark.parametrize("module", ["generate", "chat"])
def test_help_needs_no_numpy(module):
    code = f"""
import sys
from tinyllm.{module} import main
try:
    main(["--help"])
except SystemExit as end:
    print(end.code, sorted({{"numpy", "numba", "msgpack"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0 []\n")


def test_a_reader_that_goes_away_is_no_error(wild):
    with program(wild, "--ignore-end", "--max-tokens=100000", "--stream") as process:
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_ends_quietly_with_130(wild):
    with program(wild, "--ignore-end", "--max-tokens=100000", "--stream") as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        process.stdout.read()
    assert process.returncode == 130


@pytest.mark.parametrize("numpy_first", [False, True])
def test_blas_threads_are_set_before_numpy_only_and_where_unset_only(numpy_first):
    code = f"""
import os
{"import numpy" if numpy_first else ""}
from tinyllm.parallel.threads import set_blas_threads
set_blas_threads(3)
print(os.environ["OMP_NUM_THREADS"], os.environ.get("OPENBLAS_NUM_THREADS"))
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ("7 None\n" if numpy_first else "7 3\n")
