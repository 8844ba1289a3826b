"""Kill real training runs at random moments until they finish all the same.

    python -m benchmarks.kill_loop --kills N

One run is never interrupted. Each round is the same run under fire, restarted with --resume after every
kill, and at its end the sha256 of params, m and v and every logged loss are compared. SIGKILL mostly, some
SIGTERM, SIGINT, SIGHUP and SIGUSR1; one in five falls into the start, two in five wait for a save to be under
way. Those that left a half-written file are counted as inside a save. The driver ends with exit code 1 at the
first difference. Order: one process, one round, main.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tinyllm.checkpoint.commit import TEMP_PREFIX
from tinyllm.training.metrics import FILE_NAME, read

SAVES = ["--save-every-steps", "3", "--strategy", "best-and-periodic:1", "--keep-best-n", "2"]
SHAPE = ["--n-layer", "1", "--n-head", "2", "--n-embd", "32", "--block-size", "64", "--vocab-size", "512"]
COURSE = ["--batch-size", "4", "--accumulate", "2", "--dropout", "0.1", "--epochs", "2"]
HELD_OUT = ["--val-fraction", "0.1", "--eval-every", "7"]


def start(directory: Path, resume: bool) -> subprocess.Popen[str]:
    """Start or resume the run in `directory`."""
    command = [sys.executable, "-m", "tinyllm.train", "--plain", "--no-samples", *SAVES]
    command += ["--resume"] if resume else [*SHAPE, *COURSE, *HELD_OUT]
    command += ["--checkpoint-dir", str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
    return {"sha256": json.loads(shown.stdout)["sha256"], "losses": losses}


def has_checkpoint(directory: Path) -> bool:
    """Return whether there is anything to resume from."""
    return any(directory.glob("checkpoint_*.bin"))


def saving(directory: Path) -> bool:
    """Return whether a save is under way, or was when its process died."""
    return any(directory.glob(f"{TEMP_PREFIX}*"))


def shoot(process: subprocess.Popen[str], directory: Path, rng: random.Random, most: int) -> str:
    """Send a signal at a random moment; return its name, "" if the run had ended.

    One in five falls into the start. The others come when the log has grown by up to `most` bytes, half of
    these in the next save.
    """
    log, begun = directory / FILE_NAME, time.monotonic()
    size = log.stat().st_size if log.exists() else 0
    early = rng.random() < 0.2
    wait, grown, aim = rng.uniform(0.1, 2), size + rng.uniform(1, most), rng.random() < 0.5
    delay = rng.uniform(0, 0.004)  # seconds; a save of this small state takes a few milliseconds
    while process.poll() is None:
        if time.monotonic() - begun > wait if early else log.exists() and log.stat().st_size >= grown:
            break
        time.sleep(0.001)
    while aim and not early and process.poll() is None and not saving(directory):
        pass
    time.sleep(delay)
    asking = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
    sent = rng.choices([signal.SIGKILL, *asking], [16, 1, 1, 1, 1])[0]
    if process.poll() is not None:
        return ""
    process.send_signal(sent)
    process.communicate()
    if sent == -process.returncode == signal.SIGKILL and saving(directory):
        return "SIGKILL inside a save"
    return sent.name


def under_fire(directory: Path, rng: random.Random, most: int, share: int) -> Counter[str]:
    """Run to the end through up to `most` kills; return how many of each kind there were."""
    kills: Counter[str] = Counter()
    while True:
        process = start(directory, has_checkpoint(directory))
        if kills.total() < most and (kind := shoot(process, directory, rng, share)):
            kills[kind] += 1
            continue
        output, _ = process.communicate()
        if process.returncode == 0:
            return kills
        raise SystemExit(
            f"a run failed after {kills.total()} kills with exit code {process.returncode}:\n{output}"
        )


def main() -> int:
    """Run rounds until --kills kills were survived."""
    parser = argparse.ArgumentParser(
        "kill_loop", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--kills", type=int, default=20, help="kills to survive in all (default: 20)")
    parser.add_argument("--per-run", type=int, default=25, help="kills of one run at most (default: 25)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, done, rounds = random.Random(args.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        process = start(whole, False)
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the uninterrupted run failed:\n{output}")
        share = 2 * (whole / FILE_NAME).stat().st_size // args.per_run
        expected = outcome(whole)
        while done.total() < args.kills:
            directory = Path(place) / f"killed-{rounds}"
            done += under_fire(directory, rng, min(args.per_run, args.kills - done.total()), share)
            rounds += 1
            found = outcome(directory)
            if found != expected:
                print(f"round {rounds}: after {done.total()} kills the end differs:\n{found}\n{expected}")
                return 1
            print(f"round {rounds}: {done.total()} kills survived, the end is the same", flush=True)
            shutil.rmtree(directory)
    print(", ".join(f"{count} {kind}" for kind, count in done.most_common()))
    print(
        f"{done.total()} kills in {rounds} runs: "
        f"params, m, v and {len(expected['losses'])} losses bitwise equal"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
