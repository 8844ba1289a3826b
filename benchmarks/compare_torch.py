"""Trained by the same recipe on the same text, tinyllm ends at PyTorch's held-out loss, within 1.5 %.

    pip install torch
    python -m benchmarks.compare_torch --make-text prose.txt
    python -m benchmarks.compare_torch prose.txt

The recipe is nanoGPT's for a CPU: 4 layers, 4 heads, 128 channels, context 64, batches of 12, 2000 updates,
AdamW (0.9, 0.99) with weight decay 0.1 on matrices, rate 1e-3 to 1e-4 with 100 updates of warm-up, one token
per character, no dropout. PyTorch draws its windows at random, as nanoGPT does; tinyllm is run by its command
line and goes through the text in epochs. Both are evaluated on the last tenth, in windows of 64; PyTorch also
evaluates tinyllm's final weights, to check that the two evaluations are the same.

Order: the recipe, the text, PyTorch's side, tinyllm's side, the table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.texts import english
from benchmarks.torch_gpt import GPT, adamw, load, mean_loss, rate_at, update
from tinyllm.checkpoint import CheckpointManager
from tinyllm.training.metrics import FILE_NAME, read

L, H, C, T, B = 4, 4, 128, 64, 12
PEAK, FLOOR, WARMUP, CLIP = 1e-3, 1e-4, 100, 1.0
BETA1, BETA2, WEIGHT_DECAY = 0.9, 0.99, 0.1
HELD_OUT = 0.1
BAR = 1.015


def make_text(path: Path, size: int = 1_000_000) -> None:
    """Write about `size` characters of English: paragraphs of prose from this Python's own docstrings.

    Which Python it is decides the text, so compare losses only on one text.
    """
    path.write_text(english(size), encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} characters of the docstrings of Python {sys.version.split()[0]}")


class Corpus(NamedTuple):
    """A text as tinyllm sees it: one token per character, the end of text around them."""

    ids: torch.Tensor  # int64 (n + 1,): n tokens that have a successor, and the last
    border: int  # tokens from here on have their successors held out
    V: int

    @classmethod
    def of(cls, path: Path) -> Corpus:
        """Read a text and hold its last tenth out."""
        text = path.read_text(encoding="utf-8")
        id_of = {character: i for i, character in enumerate(sorted(set(text)))}
        end = len(id_of)
        ids = torch.tensor([end, *(id_of[character] for character in text), end])
        n = len(ids) - 1
        return cls(ids, n - int(HELD_OUT * n), end + 1)


def train_torch(corpus: Corpus, seed: int, steps: int) -> float:
    """Train nanoGPT's way; return the held-out loss."""
    torch.manual_seed(seed)
    gpt = GPT(corpus.V, T, L, H, C)
    optimizer = adamw(gpt, BETA1, BETA2, WEIGHT_DECAY)
    within = torch.arange(T)
    for step in range(steps):
        at = torch.randint(corpus.border - T + 1, (B, 1)) + within
        loss = mean_loss(gpt(corpus.ids[at]), corpus.ids[at + 1])
        update(gpt, optimizer, loss, rate_at(step, PEAK, FLOOR, min(WARMUP, steps), steps), CLIP)
    return held_out_loss(gpt, corpus)


@torch.no_grad()
def held_out_loss(gpt: GPT, corpus: Corpus) -> float:
    """Return the mean loss over all of the held-out part, in windows of T of which the last is shorter."""
    tokens, targets = corpus.ids[corpus.border : -1], corpus.ids[corpus.border + 1 :]
    total = 0.0
    for x, y in zip(tokens.split(64 * T), targets.split(64 * T), strict=True):
        whole = len(x) // T * T
        for part, shape in ((slice(0, whole), (-1, T)), (slice(whole, None), (1, -1))):
            if len(x[part]):
                loss = mean_loss(gpt(x[part].view(shape)), y[part].view(shape))
                total += loss.item() * len(x[part])
    return total / len(tokens)


def train_tinyllm(path: Path, corpus: Corpus, seed: int, steps: int, workers: int) -> float:
    """Train by the command line; return the held-out loss it logs last, once PyTorch has found the same."""
    with tempfile.TemporaryDirectory() as directory:
        options = {
            "data": path, "val-fraction": HELD_OUT, "tokenizer": "char", "seed": seed, "dropout": 0,
            "n-layer": L, "n-head": H, "n-embd": C, "block-size": T, "batch-size": B, "max-steps": steps,
            "lr": PEAK, "min-lr": FLOOR, "warmup": WARMUP, "beta1": BETA1, "beta2": BETA2,
            "weight-decay": WEIGHT_DECAY, "grad-clip": CLIP, "eval-every": 250, "patience": 0,
            "workers": workers, "strategy": "last", "checkpoint-dir": directory,
        }  # fmt: skip
        command = [sys.executable, "-m", "tinyllm.train", "--plain", "--no-samples"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        losses = [line["eval/loss"] for line in read(Path(directory, FILE_NAME)) if "eval/loss" in line]
        with CheckpointManager(Path(directory)) as manager:
            state, _ = manager.load_checkpoint(Path(directory, "model_final.bin"))
    gpt = GPT(corpus.V, T, L, H, C)
    load(gpt, state.layout.named(state.rows[0]))
    found = held_out_loss(gpt, corpus)
    if abs(found - losses[-1]) > 1e-4:
        raise RuntimeError(f"tinyllm logs a held-out loss of {losses[-1]:.5f}, PyTorch finds {found:.5f}")
    return float(losses[-1])


def main() -> int:
    """Print each seed's two losses and the ratio of their means; return 1 where it is above the bar."""
    parser = argparse.ArgumentParser("compare_torch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, nargs="?", help="a text to train on, such as --make-text writes")
    parser.add_argument("--make-text", type=Path, metavar="PATH", help="write 1 MB of prose there, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads, and tinyllm's workers")
    args = parser.parse_args()
    if args.make_text:
        make_text(args.make_text)
        return 0
    if not args.text:
        parser.error("give a text, or --make-text PATH")
    torch.set_num_threads(args.threads)
    corpus = Corpus.of(args.text)
    print(f"{args.text}: {len(corpus.ids):,} tokens, {corpus.V} in the vocabulary, {args.steps} updates")
    print("seed      torch   tinyllm     ratio", flush=True)
    losses = []
    for seed in args.seeds:
        torchs = train_torch(corpus, seed, args.steps)
        ours = train_tinyllm(args.text, corpus, seed, args.steps, args.threads)
        losses.append((torchs, ours))
        print(f"{seed:4} {torchs:10.4f} {ours:9.4f} {ours / torchs:9.4f}", flush=True)
    torchs, ours = np.mean(losses, axis=0)
    print(f"mean {torchs:10.4f} {ours:9.4f} {ours / torchs:9.4f}   (bar {BAR})")
    return int(ours / torchs > BAR)


if __name__ == "__main__":
    sys.exit(main())
