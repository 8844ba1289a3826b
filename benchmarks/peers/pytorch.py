"""PyTorch: `scaled_dot_product_attention`, fused AdamW, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.shapes import BATCHES, BETA1, BETA2, CLIP, LEARNING_RATE, WEIGHT_DECAY, Shape
from benchmarks.torch_gpt import GPT, adamw, mean_loss, update


def build(shape: Shape, threads: int, compiled: bool) -> tuple[Callable[[], float], str]:
    """Return a step that trains and returns the loss, and what makes it."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    gpt = GPT(shape.V, shape.T, shape.L, shape.H, shape.C)
    optimizer = adamw(gpt, BETA1, BETA2, WEIGHT_DECAY, fused=True)
    draws = torch.randint(shape.V, (BATCHES, shape.B, shape.T + 1))
    batches = [(draw[:, :-1].contiguous(), draw[:, 1:].contiguous()) for draw in draws]
    steps = 0

    def loss_of(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return mean_loss(gpt(tokens), targets)

    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> float:
        nonlocal steps
        loss = loss_of(*batches[steps % BATCHES])
        update(gpt, optimizer, loss, LEARNING_RATE, CLIP)
        steps += 1
        return loss.item()

    made_by = "inductor" if compiled else "eager"
    return step, f"PyTorch {torch.__version__}, {made_by}, {torch.backends.cpu.get_cpu_capability()}"
