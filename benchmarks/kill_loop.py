"""Kill real training runs at random moments until they finish all the same.

    python -m benchmarks.kill_loop --kills N

One run is never interrupted. Each round is the same run under fire, restarted with --resume after every
end, and when it is finished the sha256 of params, m and v, every logged loss and the report are compared.

Half of the ends come at random moments: SIGKILL mostly, some SIGTERM, SIGINT, SIGHUP, SIGUSR1 and terminals
that close; one in five falls into the start, two in five wait for a save to be under way, and those that left
a half-written file are counted as inside a save. The others come where they would hardly fall by chance:
while texts are read and tokenised, in the midst of an evaluation, between the final model and its report.

The driver ends with exit code 1 at the first difference, and at a stop that has not saved its last step.
Order: one process, its end, one round, main.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tinyllm.checkpoint import CheckpointManager
from tinyllm.checkpoint.commit import TEMP_PREFIX
from tinyllm.training.metrics import FILE_NAME, read

SAVES = ["--save-every-steps", "3", "--strategy", "best-and-periodic:1", "--keep-best-n", "2"]
SHAPE = ["--n-layer", "1", "--n-head", "2", "--n-embd", "32", "--block-size", "64", "--vocab-size", "512"]
COURSE = ["--batch-size", "4", "--accumulate", "2", "--dropout", "0.1", "--epochs", "2"]
HELD_OUT = ["--val-fraction", "0.1", "--eval-every", "7"]


POLITE = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
# How far to count at a place: texts and batches that even the shortest visit comes to.
DEPTHS = {"reading": 500, "evaluation": 9, "report": 1}


def start(
    directory: Path, program: Sequence[str] = ("tinyllm.train",), **streams: Any
) -> subprocess.Popen[str]:
    """Start the run in `directory`, or resume it if there is anything to resume from."""
    command = [sys.executable, "-m", *program, "--no-samples", *SAVES]
    command += ["--resume"] if has_checkpoint(directory) else [*SHAPE, *COURSE, *HELD_OUT]
    command += ["--checkpoint-dir", str(directory)]
    if not streams:
        command, streams = [*command, "--plain"], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, **streams)


def outcome(directory: Path) -> dict[str, Any]:
    """Return the hashes of a finished run's state and all its losses."""
    shown = subprocess.run(
        [sys.executable, "-m", "tinyllm.checkpoint", "show", "--json", str(directory / "model_final.bin")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    losses = [
        (line["step"], line["phase"], line.get("train/loss"), line.get("eval/loss"))
        for line in read(directory / FILE_NAME)
        if "event" not in line
    ]
    final, report = directory / "model_final.bin", directory / "report.html"
    drawn = report.exists() and report.stat().st_mtime_ns >= final.stat().st_mtime_ns
    return {"sha256": json.loads(shown.stdout)["sha256"], "losses": losses, "report": drawn}


def has_checkpoint(directory: Path) -> bool:
    """Return whether there is anything to resume from."""
    return any(directory.glob("checkpoint_*.bin"))


def saving(directory: Path) -> bool:
    """Return whether a save is under way, or was when its process died."""
    return any(directory.glob(f"{TEMP_PREFIX}*"))


def await_moment(
    process: subprocess.Popen[str], directory: Path, rng: random.Random, most: int, watch: Callable[[], None]
) -> None:
    """Return at a random moment, or when the process has ended; `watch` is called again and again.

    One in five falls into the start. The others come when the log has grown by up to `most` bytes, half of
    these in the next save.
    """
    log, begun = directory / FILE_NAME, time.monotonic()
    size = log.stat().st_size if log.exists() else 0
    early = rng.random() < 0.2
    wait, grown, aim = rng.uniform(0.1, 2), size + rng.uniform(1, most), rng.random() < 0.5
    delay = rng.uniform(0, 0.004)  # seconds; a save of this small state takes a few milliseconds
    while process.poll() is None:
        watch()
        if time.monotonic() - begun > wait if early else log.exists() and log.stat().st_size >= grown:
            break
        time.sleep(0.001)
    while aim and not early and process.poll() is None and not saving(directory):
        watch()
    time.sleep(delay)


def shoot(directory: Path, rng: random.Random, most: int) -> tuple[str, int]:
    """Run until a signal at a random moment; return its name, "" if the run had ended, and the exit code."""
    process = start(directory)
    await_moment(process, directory, rng, most, lambda: None)
    sent = rng.choices(["SIGKILL", *POLITE], [16, 1, 1, 1, 1])[0]
    ended = process.poll() is not None
    if not ended:
        process.send_signal(signal.Signals[sent])
    output, _ = process.communicate()
    if ended:
        return "", failed(process.returncode, output)
    if process.returncode == -signal.SIGKILL and saving(directory):
        return "SIGKILL inside a save", process.returncode
    return sent, process.returncode


def close_terminal(directory: Path, rng: random.Random, most: int) -> tuple[str, int]:
    """Run on a terminal that closes at a random moment; return as `shoot` does."""
    master, slave = os.openpty()
    os.set_blocking(master, False)

    def watch() -> None:
        with suppress(BlockingIOError):
            os.read(master, 1 << 16)

    process = start(
        directory, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its own controlling terminal
    )  # fmt: skip
    await_moment(process, directory, rng, most, watch)
    ended = process.poll() is not None
    os.close(slave)
    os.close(master)
    code = process.wait()
    return ("", failed(code, "")) if ended else ("closed terminal", code)


def strike(directory: Path, rng: random.Random, place: str) -> tuple[str, int]:
    """Run until a signal at a place of the program; return as `shoot` does."""
    if place == "reading" and rng.random() < 0.5:
        for tokens in directory.glob("data/*.tokens"):
            tokens.unlink()  # they are made again
    sent = rng.choice(["SIGKILL"] * len(POLITE) + [*POLITE])
    count = str(rng.randint(1, DEPTHS[place]))
    process = start(directory, ("benchmarks.struck", place, count, sent))
    output, _ = process.communicate()
    number = signal.Signals[sent]
    if process.returncode == (-number if sent == "SIGKILL" else 128 + number):
        return f"{'SIGKILL' if sent == 'SIGKILL' else 'stop'} in {place}", process.returncode
    return "", failed(process.returncode, output)


def failed(code: int, output: str) -> int:
    """Return 0, the exit code of a run that has finished; end the driver with the output of any other."""
    if code:
        raise SystemExit(f"a run failed with exit code {code}:\n{output}")
    return code


def newest_step(directory: Path) -> int:
    """Return the step of the newest checkpoint, -1 if there is none."""
    if not has_checkpoint(directory):
        return -1
    return int(CheckpointManager.load_checkpoint(directory)[0].progress.step)


def end_once(directory: Path, rng: random.Random, most: int, share: int) -> str:
    """End the run in one way; return which, "" if it had finished. SystemExit where a step was lost.

    The report comes last: a run that has its final model does not train any more.
    """
    ways: dict[str, Callable[[], tuple[str, int]]] = {
        "moment": lambda: shoot(directory, rng, share),
        "terminal": lambda: close_terminal(directory, rng, share),
        **{place: partial(strike, directory, rng, place) for place in DEPTHS},
    }
    log = directory / FILE_NAME
    before, size = newest_step(directory), log.stat().st_size if log.exists() else 0
    chosen = "report" if most <= 2 else rng.choices(list(ways)[:-1], [5, 1, 2, 2])[0]
    kind, code = ways[chosen]()
    after = newest_step(directory)
    trained = log.exists() and log.stat().st_size > size  # and took back what an earlier end had lost
    logged = max(line["step"] for line in read(log)) if trained else before
    if after < before or (code > 0 and after < logged):
        raise SystemExit(
            f"{kind}: step {after} is the newest on disk, after {before}; step {logged} is logged"
        )
    return kind


def under_fire(directory: Path, rng: random.Random, most: int, share: int) -> Counter[str]:
    """Run to the end through up to `most` ends; return how many of each kind there were."""
    ends: Counter[str] = Counter()
    while ends.total() < most:
        kind = end_once(directory, rng, most - ends.total(), share)
        if not kind:
            return ends
        ends[kind] += 1
    process = start(directory)
    output, _ = process.communicate()
    failed(process.returncode, output)
    return ends


def main() -> int:
    """Run rounds until --kills kills were survived."""
    parser = argparse.ArgumentParser(
        "kill_loop", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--kills", type=int, default=20, help="ends to survive in all (default: 20)")
    parser.add_argument("--per-run", type=int, default=25, help="ends of one run at most (default: 25)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, the runs would rightly ignore it
    rng, done, rounds = random.Random(args.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        process = start(whole)
        output, _ = process.communicate()
        failed(process.returncode, output)
        share = 2 * (whole / FILE_NAME).stat().st_size // args.per_run
        expected = outcome(whole)
        while done.total() < args.kills:
            directory = Path(place) / f"killed-{rounds}"
            done += under_fire(directory, rng, min(args.per_run, args.kills - done.total()), share)
            rounds += 1
            found = outcome(directory)
            if found != expected:
                print(f"round {rounds}: after {done.total()} ends the result differs:\n{found}\n{expected}")
                return 1
            print(f"round {rounds}: {done.total()} ends survived, the result is the same", flush=True)
            shutil.rmtree(directory)
    print(", ".join(f"{count} {kind}" for kind, count in done.most_common()))
    print(
        f"{done.total()} ends in {rounds} runs, none lost: "
        f"params, m, v and {len(expected['losses'])} losses bitwise equal"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
