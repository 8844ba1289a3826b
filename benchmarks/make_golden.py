"""Write tests/golden/parity.npz: what PyTorch computes of a small GPT, for tinyllm to compute again.

    pip install torch && python -m benchmarks.make_golden

Nothing here imports tinyllm. The file holds the settings, the parameters, eight batches, the logits and all
gradients of the first, and the losses of 200 updates that go round the eight: in float32, the losses also in
float64. Order: settings, what is drawn, what is computed, main.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.torch_gpt import GPT, adamw, load, mean_loss, named_parameters, rate_at, update

Array = npt.NDArray[np.generic]

PATH = Path(__file__).parents[1] / "tests" / "golden" / "parity.npz"
SHAPE = {"V": 61, "T": 32, "L": 2, "H": 4, "C": 32}
BATCHES, B = 8, 4
ADAM = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}
CLIP = 1.0
RATE = {"peak": 3e-3, "floor": 3e-4, "warmup": 20, "steps": 200}


def draw_parameters(gpt: GPT, rng: np.random.Generator) -> dict[str, Array]:
    """Return parameters at which every tensor matters: biases are not 0, gains not 1, attention not uniform.

    They are float16 numbers: half the room in the file, and the same numbers in float32 and float64.
    """
    drawn = {}
    for name, parameter in named_parameters(gpt).items():
        noise = 0.2 * rng.standard_normal(tuple(parameter.shape))
        drawn[name] = (noise + name.endswith("gain")).astype(np.float16)
    return drawn


def draw_batch(rng: np.random.Generator) -> dict[str, Array]:
    """Return tokens, targets and starts, all (B, T): one row is one document, the others hold several."""
    T, V = SHAPE["T"], SHAPE["V"]
    tokens, targets = np.zeros((B, T), np.int8), np.full((B, T), -1, np.int8)
    starts = np.tile(np.arange(T, dtype=np.int8), (B, 1))
    for row in range(B):
        begin, end = 0, T - 3 * (row == B - 1)  # the last row ends in padding
        while begin < end:
            stop = end if row == 0 else min(begin + int(rng.integers(1, T)), end)
            text = [int(rng.integers(V))]
            for _ in range(begin, stop):  # mostly a rule, so that there is something to learn
                text.append((5 * text[-1] + 7 + int(rng.integers(3))) % V)
            tokens[row, begin:stop], targets[row, begin:stop] = text[:-1], text[1:]
            starts[row, begin:stop] = begin
            begin = stop
    targets[2, rng.permutation(T)[:9]] = -1  # such as the prompts of a dialogue
    return {"tokens": tokens, "targets": targets, "starts": starts}


def as_tensors(batch: dict[str, Array]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens, targets, starts = (
        torch.from_numpy(batch[name].astype(np.int64)) for name in ("tokens", "targets", "starts")
    )
    return tokens, targets, starts


def first_pass(gpt: GPT, batch: dict[str, Array]) -> dict[str, Array]:
    """Return the logits, the loss and all gradients of one batch."""
    tokens, targets, starts = as_tensors(batch)
    logits = gpt(tokens, starts)
    loss = mean_loss(logits, targets)
    loss.backward()
    gradients = {f"gradients/{name}": p.grad.numpy() for name, p in named_parameters(gpt).items()}
    return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **gradients}


def train(gpt: GPT, batches: list[dict[str, Array]], rates: list[float]) -> Array:
    """Return the loss before each update (len(rates),)."""
    optimizer = adamw(gpt, **ADAM)
    losses = []
    for step, rate in enumerate(rates):
        tokens, targets, starts = as_tensors(batches[step % len(batches)])
        loss = mean_loss(gpt(tokens, starts), targets)
        update(gpt, optimizer, loss, rate, CLIP)
        losses.append(loss.item())
    return np.array(losses)


def main() -> None:
    """Draw, compute, write, and say how far float32 is from float64."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1337)
    gpt = GPT(**SHAPE)
    parameters = draw_parameters(gpt, rng)
    batches = [draw_batch(rng) for _ in range(BATCHES)]
    rates = [rate_at(step, **RATE) for step in range(RATE["steps"])]
    results = {}
    for bits, dtype in ((32, torch.float32), (64, torch.float64)):
        gpt = GPT(**SHAPE).to(dtype)
        load(gpt, parameters)
        results[bits] = first_pass(gpt, batches[0])
        results[bits]["losses"] = train(gpt, batches, rates)
    losses = results[64]["losses"]
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        PATH,
        settings=json.dumps(
            {"shape": SHAPE, "B": B, "adam": ADAM, "clip": CLIP, "rate": RATE, "torch": torch.__version__}
        ),
        rates=np.array(rates),
        losses_float64=losses,
        **{f"parameters/{name}": value for name, value in parameters.items()},
        **{name: np.stack([batch[name] for batch in batches]) for name in batches[0]},
        **results[32],
    )
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")
    print(f"losses {losses[0]:.4f} -> {losses[-1]:.4f}; float32 differs from float64 by")
    for name, exact in results[64].items():
        error = np.linalg.norm(results[32][name] - exact) / np.linalg.norm(exact)
        print(f"  {error:.1e}  {name}")


if __name__ == "__main__":
    main()
