"""PyTorch eager: keys and values in memory that is allocated once, `scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.generation import Work, prompts, weights
from benchmarks.shapes import Shape
from benchmarks.torch_gpt import GPT, load


def build(shape: Shape, threads: int, work: list[int]) -> tuple[Callable[[], float], str]:
    """Return a step that does the work and returns the sum of the new tokens, and what makes it."""
    torch.set_num_threads(threads)
    todo = Work(*work)
    gpt = GPT(shape.V, shape.T, shape.L, shape.H, shape.C).eval()
    layout, row = weights(shape)
    load(gpt, layout.named(row))
    cache = torch.zeros(shape.L, 2, todo.sequences, shape.H, shape.T, shape.C // shape.H)
    begun = torch.from_numpy(prompts(shape, todo))

    @torch.inference_mode()
    def step() -> float:
        tokens, total, position = begun, 0, 0
        for _ in range(todo.tokens):
            logits = extend(gpt, cache, tokens, position)
            position += tokens.shape[1]
            tokens = logits.argmax(dim=-1, keepdim=True)
            total += int(tokens.sum())
        return float(total)

    return step, f"PyTorch {torch.__version__}, eager, {torch.backends.cpu.get_cpu_capability()}"


def extend(gpt: GPT, cache: Tensor, tokens: Tensor, past: int) -> Tensor:
    """Append tokens (B, n) at position `past`, if not 0, n = 1; return the logits (B, V) after them."""
    B, n = tokens.shape
    stop = past + n
    x = gpt.token(tokens) + gpt.position(torch.arange(past, stop))
    for block, memory in zip(gpt.blocks, cache, strict=True):
        q, k, v = block.qkv(block.norm1(x)).view(B, n, 3, block.H, -1).permute(2, 0, 3, 1, 4)
        memory[0, :, :, past:stop], memory[1, :, :, past:stop] = k, v
        keys, values = memory[0, :, :, :stop], memory[1, :, :, :stop]
        mix = functional.scaled_dot_product_attention(q, keys, values, is_causal=n > 1)
        x = x + block.out(mix.transpose(1, 2).reshape(x.shape))
        x = x + block.down(functional.gelu(block.up(block.norm2(x)), approximate="tanh"))
    return functional.linear(gpt.norm(x[:, -1]), gpt.token.weight)
