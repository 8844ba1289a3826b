"""No accepted value of any option, however extreme, ends a program with a traceback or a warning.

Order: what is drawn for an option, the options of training, those of the other programs.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import chain_of, saved
from tinyllm import chat, encode, evaluate, explain, generate, train
from tinyllm.cli import options, summary
from tinyllm.config import SECTIONS
from tinyllm.option import LARGEST, flag, is_option

# Values that would take the time or the memory of a large run, if they are not refused for it.
SMALL: dict[str, Any] = {
    "n_layer": st.sampled_from([1, 2]), "n_head": st.sampled_from([1, 2, 3, 1 << 16]),
    "n_embd": st.sampled_from([6, 8, 1 << 16]), "block_size": st.integers(1, 20),
    "batch_size": st.sampled_from([1, 3, LARGEST]), "max_steps": st.integers(1, 2),
    "vocab_size": st.sampled_from([257, 300, 1 << 20]), "workers": st.integers(1, 3),
    "blas_threads": st.integers(1, 3), "max_tokens": st.integers(1, 6), "beams": st.integers(1, 3),
    "num_samples": st.integers(1, 2), "top": st.integers(1, 100),
    "strategy": st.sampled_from(["best", "last", "periodic:1", "best-and-periodic:99999999999"]),
    "encoding": st.sampled_from(["utf-8", "gb18030", "ascii", "rot13", "no-such"]),
    "separator": st.sampled_from(["", "e", "\n", "three"]), "suffix": st.sampled_from(["", ".md,.py", "md"]),
}  # fmt: skip
ELSEWHERE = {"epochs", "max_minutes"}  # drawn where no step is made


def extreme(kind: type, low: float | None, high: float | None) -> st.SearchStrategy[Any]:
    """Return a strategy of numbers within bounds, those at the bounds and beyond reason among them."""
    if kind is float:
        first = 5e-324 if low is None else low
        last = 1.7e308 if high is None else high
        usual = [value for value in (1e-3, 0.5, 1.0, 1e5) if first <= value <= last]
        return st.sampled_from([first, last, *usual]) | st.floats(first, last)
    first, last = int(low or 0), LARGEST if high is None else int(high)
    return st.sampled_from([first, last]) | st.integers(first, last)


def of_field(field: dataclasses.Field[Any], hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of a config field's accepted values."""
    if field.name in SMALL:
        return SMALL[field.name]
    if field.metadata.get("choices"):
        return st.sampled_from(field.metadata["choices"])
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind = next(each for each in kinds if each is not type(None))
    return st.booleans() if kind is bool else extreme(kind, field.metadata["low"], field.metadata["high"])


FIELDS = {
    field.name: of_field(field, get_type_hints(section)[field.name])
    for section in SECTIONS.values()
    for field in filter(is_option, dataclasses.fields(section))
}


def arguments(drawn: dict[str, Any]) -> list[str]:
    """Return drawn values as a command line; a negative exponent or sign is no option."""
    flags = {name: flag("async" if name == "asynchronous" else name) for name in drawn}
    return [
        f"{flags[name]}={value!r}".replace("'", "") if not isinstance(value, bool)
        else flags[name] if value else flags[name].replace("--", "--no-", 1)
        for name, value in drawn.items()
    ]  # fmt: skip


def some(of: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of values for a few of the options: of many, one would always be refused."""
    names = st.lists(st.sampled_from(sorted(of)), max_size=4, unique=True)
    return names.flatmap(lambda names: st.fixed_dictionaries({name: of[name] for name in names}))


def ended(main: Any, argv: list[str], *streams: io.StringIO) -> int:
    """Return the exit code of a program; anything but an exit, and any warning, is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            code = int(main(argv, *streams))
        except SystemExit as end:
            code = int(end.code or 0)
    return code


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Iterator[Path]:
    """A folder with a text, where a run takes no time to measure the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "probe", lambda workers: 1.0)
        folder = tmp_path_factory.mktemp("values")
        (folder / "t.txt").write_text("one two three four five six.\n\n" * 12)
        yield folder


def trained(folder: Path, drawn: dict[str, Any], *more: str) -> None:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    argv = ["--data", str(folder / "t.txt"), "--checkpoint-dir", str(run), "--plain", *more]
    small = {"n_layer": 1, "n_head": 2, "n_embd": 6, "block_size": 8, "batch_size": 2, "vocab_size": 260}
    code = ended(train.main, [*argv, *arguments(small | drawn)])
    assert code in (0, 1, 2, 75)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=some({name: each for name, each in FIELDS.items() if name not in ELSEWHERE}), resumed=st.data())
def test_training_takes_every_value_or_says_why_not(directory, drawn, resumed):
    trained(directory, {"max_steps": 2} | drawn)
    again = {name: FIELDS[name] for name in ("lr", "min_lr", "warmup", "weight_decay", "min_delta", "beta1")}
    argv = ["--checkpoint-dir", str(directory / "run"), "--resume", "--max-steps=4", "--plain"]
    ended(train.main, [*argv, *arguments(resumed.draw(some(again)))])


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(epochs=FIELDS["epochs"], minutes=st.just(0.0) | st.floats(0, 1e-9), warmup=FIELDS["warmup"])
def test_a_run_of_any_length_can_begin(directory, epochs, minutes, warmup):
    trained(directory, {"epochs": epochs, "warmup": warmup}, f"--max-minutes={minutes!r}")


def test_every_option_of_training_is_drawn():
    parser = argparse.ArgumentParser()
    options._add_hardware(parser)
    names = {action.dest for action in parser._actions} - {"help"}
    assert names | set(FIELDS) <= set(FIELDS) | set(SMALL) | ELSEWHERE


COUNT = extreme(int, 0, None) | st.just(10**400)  # what has no limit need not be a float64
WRITING = {
    "temperature": extreme(float, 0, None), "top_k": COUNT, "top_p": extreme(float, None, 1),
    "repetition_penalty": extreme(float, None, None), "seed": COUNT,
    "max_tokens": SMALL["max_tokens"], "blas_threads": SMALL["blas_threads"],
}  # fmt: skip
PROGRAMS: dict[str, tuple[Any, dict[str, st.SearchStrategy[Any]]]] = {
    "sampling": (generate.main, {**WRITING, "num_samples": SMALL["num_samples"]}),
    "beam search": (
        generate.main,
        {name: SMALL[name] for name in ("max_tokens", "blas_threads", "beams")}
        | {"length_penalty": extreme(float, 0, None)},
    ),
    "chat": (chat.main, {**WRITING, "memory": COUNT}),
    "explain": (explain.main, {"top": SMALL["top"]}),
    "evaluate": (
        evaluate.main,
        {"answers": COUNT, "worst": COUNT, "workers": SMALL["workers"], "json": st.just(True)},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "t.txt").write_text("abcdefg\n" * 9)
    (folder / "t.json").write_text('["User: ab Assistant: cd", "User: x Assistant: a"]')
    return saved(chain_of("abcdefg", more="x\nUser: Asitn：用户助手"), folder)


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_other_programs_take_every_value_or_say_why_not(model, name, data):
    main, of = PROGRAMS[name]
    read = [f"--data={model.parent / 't.txt'}", f"--chat-data={model.parent / 't.json'}"]
    given = read if main is evaluate.main else ["--prompt", "ab"]
    argv = [str(model), *given, *arguments(data.draw(some(of)))]
    streams = [io.StringIO() for _ in range(3)]
    assert ended(main, argv, *streams) == 0, streams[2].getvalue()


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=9)  # surrogates too


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=ANYTHING, ids=st.lists(st.integers(0, 40) | st.integers() | ANYTHING, max_size=3).map(str))
def test_tokenize_takes_every_text_and_every_id_or_says_why_not(model, text, ids):
    for argv in ([f"--prompt={text}"], ["--ids"], [f"--decode={ids.strip('[]')}"], ["--decode", "-"]):
        out, err = io.StringIO(), io.StringIO()
        code = ended(encode.main, [str(model), *argv], io.StringIO(text), out, err)
        said = err.getvalue()
        assert said == "" if code == 0 else said.startswith("error: ") and said[:-1].isprintable()


def test_a_model_that_diverged_is_an_error_line_and_no_warning(tmp_path):
    state = chain_of("abcdefg", more="x\n")
    state.rows[0] *= 1e30
    path, text = saved(state, tmp_path), tmp_path / "t.txt"
    text.write_text("abcdefg")
    prompt = ["--prompt", "abcdefg"]
    for main, more in (
        (generate.main, prompt), (generate.main, [*prompt, "--beams", "2"]), (explain.main, prompt),
        (evaluate.main, [str(text)]), (evaluate.main, [str(text), "--json", "--workers=2"]),
    ):  # fmt: skip
        out, err = io.StringIO(), io.StringIO()
        code = ended(main, [str(path), *more], io.StringIO(), out, err)
        assert code in (0, 1) and (code == 0 or "error: " in err.getvalue())


def test_the_reported_values_no_longer_break_a_search_or_a_sample(model):
    for argv in (["--beams", "3", "--length-penalty", "1000"], ["--repetition-penalty", "1e308"]):
        out = io.StringIO()
        assert ended(generate.main, [str(model), "--prompt", "ab", *argv], io.StringIO(), out) == 0
        assert out.getvalue() == "cdefg\n"
