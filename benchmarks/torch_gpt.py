"""The same GPT in PyTorch: what tinyllm is compared with, in exactness and in training.

Written from the architecture (GPT-2: pre-norm blocks, learned positions, GELU-tanh, tied head), in nanoGPT's
manner: autograd, `scaled_dot_product_attention`, `torch.optim.AdamW`. Nothing here imports tinyllm. Order:
the model, the names of its parameters in tinyllm, the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)); x (B, T, C)."""

    def __init__(self, C: int, H: int) -> None:
        super().__init__()
        self.H = H
        self.norm1 = nn.LayerNorm(C, eps=1e-5)
        self.qkv = nn.Linear(C, 3 * C)
        self.out = nn.Linear(C, C)
        self.norm2 = nn.LayerNorm(C, eps=1e-5)
        self.up = nn.Linear(C, 4 * C)
        self.down = nn.Linear(4 * C, C)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
        mix = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.out(mix.transpose(1, 2).reshape(B, T, C))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 with V tokens, contexts of at most T, L blocks of H heads and C channels; no dropout."""

    def __init__(self, V: int, T: int, L: int, H: int, C: int) -> None:
        super().__init__()
        self.token = nn.Embedding(V, C)
        self.position = nn.Embedding(T, C)
        self.blocks = nn.ModuleList(Block(C, H) for _ in range(L))
        self.norm = nn.LayerNorm(C, eps=1e-5)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:  # GPT-2's: projections into the residual stream are scaled down
                into_stream = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * L) if into_stream else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V) of int64 tokens (B, T).

        `starts` (B, T) is where in the row each position's document begins; without it a row is one document.
        """
        places = torch.arange(tokens.shape[1])
        mask = None
        if starts is not None:
            mask = ((places <= places[:, None]) & (places >= starts[:, :, None]))[:, None]  # (B, 1, T, T)
            places = places - starts
        x = self.token(tokens) + self.position(places)
        for block in self.blocks:
            x = block(x, mask)
        return functional.linear(self.norm(x), self.token.weight)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of nats per target; a target of -1 is none."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


IN_TINYLLM = {
    "token.weight": "embedding.token",
    "position.weight": "embedding.position",
    "norm.weight": "norm.gain",
    "norm.bias": "norm.bias",
    "norm1.weight": "norm1.gain",
    "norm1.bias": "norm1.bias",
    "qkv.weight": "attention.qkv_weight",
    "qkv.bias": "attention.qkv_bias",
    "out.weight": "attention.out_weight",
    "out.bias": "attention.out_bias",
    "norm2.weight": "norm2.gain",
    "norm2.bias": "norm2.bias",
    "up.weight": "mlp.up_weight",
    "up.bias": "mlp.up_bias",
    "down.weight": "mlp.down_weight",
    "down.bias": "mlp.down_bias",
}


def named_parameters(gpt: GPT) -> dict[str, nn.Parameter]:
    """Return the parameters by the names they have in tinyllm and in its checkpoints."""
    named = {}
    for name, parameter in gpt.named_parameters():
        *path, layer, kind = name.split(".")
        named[".".join([*path, IN_TINYLLM[f"{layer}.{kind}"]])] = parameter
    return named


def load(gpt: GPT, tensors: Mapping[str, npt.NDArray[np.floating]]) -> None:
    """Copy tinyllm's parameters, all of them, into `gpt`; ValueError where names or shapes differ."""
    named = named_parameters(gpt)
    if set(named) != set(tensors):
        raise ValueError(f"parameters: found {sorted(tensors)}, expected {sorted(named)}")
    with torch.no_grad():
        for name, parameter in named.items():
            if parameter.shape != tensors[name].shape:
                raise ValueError(f"{name}: found {tensors[name].shape}, expected {tuple(parameter.shape)}")
            parameter.copy_(torch.from_numpy(np.array(tensors[name])))


def adamw(
    gpt: GPT, beta1: float, beta2: float, weight_decay: float, fused: bool | None = None
) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only; the rate is to be set before each step."""
    matrices = [parameter for parameter in gpt.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in gpt.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=1e-8, fused=fused)


def update(gpt: GPT, optimizer: torch.optim.AdamW, loss: Tensor, rate: float, clip: float) -> None:
    """Make one update at this rate, the gradient clipped to a global norm of `clip`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(gpt.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def rate_at(step: int, peak: float, floor: float, warmup: int, steps: int) -> float:
    """Return the rate of update `step` (from 0): linear warm-up, half a cosine to `floor` at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return floor + (peak - floor) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
