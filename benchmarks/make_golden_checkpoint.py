"""Write tests/golden/checkpoint_v1.bin and .json: a checkpoint of this format version, to be loaded for ever.

    python -m benchmarks.make_golden_checkpoint

A file of a released version is never rewritten: a new version of the format gets a file beside it, and the
old one keeps its test. So this refuses to replace one. The last line it prints belongs in that test.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata, CheckpointStrategy
from tinyllm.checkpoint.format import VERSION
from tinyllm.config import Config, DataConfig, ModelConfig, TrainConfig
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import Progress, Sources, TrainState
from tinyllm.run.stopping import EarlyStopping
from tinyllm.text.tokenizer import train_bpe

PATH = Path(__file__).parents[1] / "tests" / "golden" / f"checkpoint_v{VERSION}.bin"
ABOUT = CheckpointMetadata(3, 1.25, 7.5e-4, "2026-01-01 12:34:56", "instruction_tuning")
TEXTS = ["the cat sat on the mat, the rat ate the cat", "月亮是卫星，地球是行星。"] * 3


def state() -> TrainState:
    """Return a state in the middle of an epoch of its second phase, no tensor of it zero."""
    config = Config(
        ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=6, dropout=0.1),
        TrainConfig(batch_size=3, accumulate=2, epochs=5, lr=1e-3, patience=7, seed=42),
        DataConfig(vocab_size=270, val_fraction=0.25),
    )
    phases = ("pretraining", "instruction_tuning")
    tokenizer = train_bpe(TEXTS, 270, han_run=None)  # split 1
    made = TrainState.fresh(config, tokenizer, Schedule(1e-3, 1e-4, 5, 20, 100), phases)
    rng = np.random.default_rng(1)
    for role, row in enumerate(made.rows):
        for view in made.layout.named(row).values():
            drawn = rng.standard_normal(view.shape).astype(np.float32)
            view[...] = np.square(drawn) if role == 2 else drawn  # v is a mean of squares
    made.progress = Progress(
        phase=phases[1], step=37, timestep=36, epoch=3, phase_epoch=1, phase_start=30, index=2, tokens=4096,
        loss_sum=12.5, loss_tokens=10, train_loss=1.25, evaluated=35, judged=35,
    )  # fmt: skip
    made.stopping = EarlyStopping(best=1.25, best_epoch=3, counter=1)
    made.sources = {phase: Sources([f"{phase}.txt"], "0" * 64) for phase in phases}
    made.environment = {"python": "3.11.7", "workers": 2}
    return made


def rows_sha256(made: TrainState) -> str:
    """Return the digest of the parameters and moments, tensor after tensor."""
    digest = hashlib.sha256()
    for array in made.tensors().values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Save the state as a run would, and keep the file and its sidecar."""
    if PATH.exists():
        sys.exit(f"{PATH}: written once, for ever; delete it first if version {VERSION} was never released")
    made = state()
    with (
        tempfile.TemporaryDirectory() as place,
        CheckpointManager(place, CheckpointStrategy.LAST, asynchronous=False) as manager,
    ):
        saved = manager.save_checkpoint(made, ABOUT).result()
        assert saved is not None
        for suffix in (".bin", ".json"):
            PATH.with_suffix(suffix).write_bytes(saved.with_suffix(suffix).read_bytes())
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")
    print(rows_sha256(made))


if __name__ == "__main__":
    main()
