"""The benchmarks say what they claim to say; no times are asserted."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_generate, bench_scaling, bench_step
from benchmarks.competitor import CompetitorError, Process, Turn
from benchmarks.generation import COMPETITORS as WRITERS
from benchmarks.generation import PEERS as WRITING_PEERS
from benchmarks.kernel_cases import CASES
from benchmarks.peers import COMPETITORS, OURS, PEERS, PROBE, Competitor, chosen, tuning
from benchmarks.shapes import CONFIGS, Shape
from benchmarks.timing import busy_seconds, by_turns, clean, peak_rss
from tests.test_kernels import NOT_KERNELS
from tinyllm import kernels
from tinyllm.config import ModelConfig
from tinyllm.parallel.threads import cores
from tinyllm.run.state import layout_of

ROOT = Path(__file__).resolve().parents[1]

QUICK = ["--seconds", "0.2", "--rounds", "1", "--json"]


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a peer that is a stand-in; tinyllm and the probe are, too."""
    fake = Competitor("tests.competitor", "tinyllm")
    for name in (OURS, PROBE):
        monkeypatch.setitem(COMPETITORS, name, fake._replace(options={"loss": math.log(96)}))
    monkeypatch.setitem(COMPETITORS, "standin", fake)
    monkeypatch.setattr("benchmarks.peers.PEERS", ("standin",))
    return "standin"


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a turn be disturbed: nothing here asserts a time."""
    monkeypatch.setattr("benchmarks.competitor.TRIES", 1)


# The step


def test_bench_step_prints_one_json_line_a_competitor_and_says_what_it_unset(capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert bench_step.main([*QUICK, "--peers", "none", "--config", "XS"]) == 0
    out, said = capsys.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert (line["competitor"], line["config"]) == ("tinyllm", "XS")
    for name in ("tokens_per_second", "share_of_peak", "peak_rss_mb", "first_step_s", "sgemm_gflops"):
        assert line[name] > 0
    assert line["tinyllm_ratio"] == 1
    assert "OPENBLAS_CORETYPE=Haswell" in said


def test_a_table_names_every_competitor_and_config(capsys, monkeypatch, standin):
    monkeypatch.setitem(COMPETITORS, standin, COMPETITORS[standin]._replace(options={"loss": math.log(96)}))
    assert bench_step.main(["--seconds", "0", "--rounds", "1", "--peers", standin, "--config", "XS"]) == 0
    out = capsys.readouterr().out
    assert "XS: V 96" in out and "\ntinyllm " in out and "\nstandin " in out and " x " in out


def test_a_peer_that_does_not_train_the_same_model_is_refused(capsys, standin):
    assert bench_step.main([*QUICK, "--peers", standin, "--config", "XS"]) == 1
    assert "standin: found a first loss of 0.000, expected about 4.564" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["tensorflow", "torch,tensorflow", "tinyllm", ""])
def test_an_unknown_peer_is_an_error_that_names_the_known(wanted, capsys, monkeypatch):
    monkeypatch.setitem(COMPETITORS, "torch", COMPETITORS["torch"]._replace(package="tinyllm"))
    with pytest.raises(SystemExit) as end:
        bench_step.main(["--peers", wanted])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert repr(wanted.removeprefix("torch,")) in message and all(name in message for name in PEERS)


def test_a_peer_that_is_not_installed_is_an_error_when_named_and_left_out_of_all(monkeypatch):
    for name in PEERS:
        package = "tinyllm" if name == "jax" else "a_package_that_is_not_there"
        monkeypatch.setitem(COMPETITORS, name, COMPETITORS[name]._replace(package=package))
    assert chosen("all") == ["jax"] and chosen("none") == []
    with pytest.raises(ValueError, match="a_package_that_is_not_there is not installed"):
        chosen("jax,torch")


# What is counted


def test_the_operations_of_a_step_are_6_a_parameter_and_token_and_attention():
    assert Shape(V=10, T=4, B=2, L=1, H=1, C=2).flops == 2 * 4 * (6 * 98 + 12 * 1 * 4 * 2)
    assert round(CONFIGS["S"].flops / 1e9, 1) == 27.5 and round(CONFIGS["M"].flops / 1e9) == 293


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_are_the_models_without_its_positions(config):
    s = CONFIGS[config]
    model = ModelConfig(n_layer=s.L, n_head=s.H, n_embd=s.C, block_size=s.T)
    assert s.parameters == layout_of(model, s.V).count - s.T * s.C


# How times are taken


def test_settings_that_decide_speed_are_taken_out_of_the_environment_and_others_stay():
    fast = {
        "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512", "OMP_NUM_THREADS": "1", "LD_PRELOAD": "x",
        "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "KMP_BLOCKTIME": "0",
        "OMP_WAIT_POLICY": "passive", "XLA_FLAGS": "-x", "GLIBC_TUNABLES": "x", "MALLOC_TRIM_THRESHOLD_": "1",
    }  # fmt: skip
    other = {
        "PATH": "/bin",
        "HOME": "/",
        "NUMBA_CACHE_DIR": "/tmp",
        "COMPOSE_FILE": "x",
        "LD_LIBRARY_PATH": "/",
    }
    assert clean(fast | other) == (other, fast)


def test_a_competitor_starts_in_a_clean_environment_and_may_print(monkeypatch, standin):
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("A_STRANGER", "stays")
    with Process(standin, CONFIGS["M"], 3) as process:
        about = json.loads(process.about)
        assert "OPENBLAS_L2_SIZE" not in about["environment"]
        assert about["environment"]["A_STRANGER"] == "stays"
        assert (about["shape"], about["threads"]) == (list(CONFIGS["M"]), 3)
        turn = process.run(0)
        assert len(turn.times) == 1 and 0 <= turn.others <= 1
        assert process.first_step > 0
        assert 5 < process.peak_rss < 100  # its own, and not what this process had when it started it


def test_a_tuned_competitor_gets_what_tuning_says(monkeypatch, standin):
    monkeypatch.setitem(COMPETITORS, standin, COMPETITORS[standin]._replace(tuned=True))
    monkeypatch.setattr(tuning, "environment", lambda: ({"OMP_WAIT_POLICY": "passive"}, []))
    with Process(standin, CONFIGS["S"], 1) as process:
        assert json.loads(process.about)["environment"]["OMP_WAIT_POLICY"] == "passive"


def test_the_last_words_of_a_competitor_that_fails_are_passed_on(standin):
    with pytest.raises(CompetitorError, match=r"standin: .* code 1:\n(.*\n)*ValueError: a loss below 0"):
        Process(standin, CONFIGS["S"], 1, loss=-1)


def test_competitors_take_turns():
    order: list[str] = []
    found = by_turns("ABC", 2, lambda name: order.append(name) or len(order))
    assert order == list("ABCABC")
    assert found == {"A": [1, 4], "B": [2, 5], "C": [3, 6]}


def test_a_disturbed_turn_is_made_again_and_the_quietest_counts(monkeypatch, standin):
    monkeypatch.setattr("benchmarks.competitor.TRIES", 4)
    busy = iter([0, 1e9, 0, 5e8, 0, 0])  # seconds before and after three turns
    monkeypatch.setattr("benchmarks.competitor.busy_seconds", lambda: next(busy))
    with Process(standin, CONFIGS["S"], 1) as process:
        assert process.run(0).others == 0
    assert next(busy, None) is None


def test_a_peer_keeps_the_number_of_threads_that_is_fastest(monkeypatch, standin):
    times = {1: 3.0, 2: 1.0, 4: 2.0}
    monkeypatch.setattr(bench_step, "thread_counts", lambda: list(times))
    monkeypatch.setattr(Process, "run", lambda process, _: Turn([times[process.threads]], 0.0))
    closed, close = [], Process.close
    monkeypatch.setattr(Process, "close", lambda process: closed.append(process.threads) or close(process))
    with bench_step.at_its_best(standin, CONFIGS["S"], 0, None) as process:
        assert process.threads == 2
        assert closed == [1, 4]


def test_memory_and_busy_time_are_what_the_system_says():
    with mmap(-1, 1 << 34):  # asked for, and not touched
        touched = bytearray(b"1") * 300_000_000
        assert 300 < peak_rss() < (1 << 34) / 1e6
    del touched
    assert peak_rss() > 300
    busy = busy_seconds()
    while busy_seconds() == busy:
        pass  # this is busy


# Tuning


def test_only_a_processor_that_is_not_intels_gets_mkls_preload(monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "mkl_preload", lambda: tmp_path / "mkl_intel.so")
    for intel in (False, True):
        monkeypatch.setattr(tuning, "is_intel", lambda intel=intel: intel)
        variables, said = tuning.environment()
        assert ("mkl_intel.so" in variables.get("LD_PRELOAD", "")) is not intel
        assert any("Intel" in line for line in said) is not intel


# Scaling and kernels


def test_the_exponent_of_a_power_is_found_and_noise_does_not_hide_it():
    values = [64, 128, 256, 512]
    assert bench_scaling.exponent(values, [3 * v**1.5 for v in values]) == pytest.approx(1.5)
    assert bench_scaling.exponent(values, [7, 7, 7, 7]) == pytest.approx(0)
    noisy = [v**2 * (1.1 if i % 2 else 0.9) for i, v in enumerate(values)]
    assert bench_scaling.exponent(values, noisy) == pytest.approx(2, abs=0.1)


def test_counted_memory_is_linear_in_positions_and_constant_at_fixed_tokens():
    many = [CONFIGS["S"]._replace(V=8, T=T, B=4) for T in (2**20, 2**21)]
    assert bench_scaling.kept_bytes(many[1], 1) / bench_scaling.kept_bytes(many[0], 1) == pytest.approx(
        2, rel=1e-2
    )
    context = bench_scaling.sweeps()["context"]
    assert {context.shape(T).tokens for T in context.values} == {bench_scaling.CONTEXT_TOKENS}


def test_bench_scaling_prints_a_json_line_a_point_and_the_fit(capsys, standin):
    assert bench_scaling.main(["--sweep", "workers", "--seconds", "0", "--rounds", "1", "--json"]) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    points = [line for line in lines if "value" in line]
    assert [point["value"] for point in points] == list(bench_scaling.sweeps()["workers"].values)
    for point in points:
        assert point["ms_per_step"] > 0 and point["gflop"] > 0 and point["rss_mb"] > 0
    if cores() > 1:
        assert lines[-1]["sweep"] == "workers" and lines[-1]["flops"] == pytest.approx(-1)


def test_every_kernel_has_a_row_in_the_table():
    assert set(CASES) == set(kernels.__all__) - NOT_KERNELS


def test_bench_kernels_times_every_kernel():
    command = [sys.executable, "-m", "benchmarks.bench_kernels", "--config", "XS", "--json"]
    done = subprocess.run(
        [*command, "--seconds", "0", "--rounds", "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["kernel"] for line in lines] == list(CASES)
    for line in lines:
        assert line["seconds"] > 0 and line["share_of_memcpy"] > 0 and line["numpy_ratio"] > 0


def test_bench_products_compares_every_product_and_whole_steps():
    command = [sys.executable, "-m", "benchmarks.bench_products", "--config", "XS", "--rounds", "1"]
    done = subprocess.run([*command, "--seconds", "0"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[1] for row in rows[3:-1]} == {"y", "dx", "dw"} and len(rows[3:-1]) == 3 * 5
    assert rows[-1][0] == "all" and float(rows[-1][-1]) > 0
    done = subprocess.run([*command, "--steps"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^XS: a step: own .* ms, blas .* ms; ratio ", done.stdout, re.MULTILINE)


def test_a_profile_names_every_kernel_of_a_step_and_what_is_left_over():
    command = [sys.executable, "-m", "benchmarks.profile_step", "--config", "XS", "--steps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in ("adam_", "attention_backward", "bias_gelu_forward", "cross_entropy_backward",
                 "residual_norm_forward", "waiting"):  # fmt: skip
        assert name in done.stdout
    # How many rows a product has depends on the number of cores: each has a share of them.
    assert re.search(r"^\(\d+, 128\) x \(128, 512\) .* GFLOP/s", done.stdout, re.MULTILINE)


# Generation


def test_bench_generate_prints_one_json_line_a_work_and_says_what_it_unset(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert bench_generate.main([*QUICK, "--peers", "none", "--tokens", "2"]) == 0
    out, said = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["work"] for line in lines] == ["prompt", "1 text", "8 texts"]
    assert all(line["competitor"] == "tinyllm" and line["tokens_per_second"] > 0 for line in lines)
    assert "OMP_NUM_THREADS=7" in said


def test_a_competitor_that_writes_other_tokens_ends_bench_generate_with_1(capsys, monkeypatch):
    other = Competitor("tests.competitor", "tinyllm", options={"loss": 0.5})
    monkeypatch.setitem(WRITING_PEERS, "other", other)
    monkeypatch.setitem(WRITERS, "other", other)
    command = [*QUICK, "--peers", "other", "--peer-threads", "1", "--tokens", "1", "--work", "1 text"]
    assert bench_generate.main(command) == 1
    assert "other: writes other tokens than tinyllm" in capsys.readouterr().err
