"""Hugging Face transformers: GPT2LMHeadModel.generate, made of a config; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers

from benchmarks.generation import Work, prompts, weights
from benchmarks.shapes import Shape

# tinyllm's names and those of transformers, whose Conv1D keeps a weight as (in, out).
OUTSIDE = {
    "wte.weight": "embedding.token", "wpe.weight": "embedding.position",
    "ln_f.weight": "norm.gain", "ln_f.bias": "norm.bias",
}  # fmt: skip
BLOCK = {
    "ln_1.weight": "norm1.gain", "ln_1.bias": "norm1.bias",
    "attn.c_attn.weight": "attention.qkv_weight", "attn.c_attn.bias": "attention.qkv_bias",
    "attn.c_proj.weight": "attention.out_weight", "attn.c_proj.bias": "attention.out_bias",
    "ln_2.weight": "norm2.gain", "ln_2.bias": "norm2.bias",
    "mlp.c_fc.weight": "mlp.up_weight", "mlp.c_fc.bias": "mlp.up_bias",
    "mlp.c_proj.weight": "mlp.down_weight", "mlp.c_proj.bias": "mlp.down_bias",
}  # fmt: skip


def build(shape: Shape, threads: int, work: list[int]) -> tuple[Callable[[], float], str]:
    """Return a step that does the work and returns the sum of the new tokens, and what makes it."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    todo = Work(*work)
    config = transformers.GPT2Config(
        vocab_size=shape.V, n_positions=shape.T, n_embd=shape.C, n_layer=shape.L, n_head=shape.H,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    gpt = transformers.GPT2LMHeadModel(config).eval()
    load(gpt, shape)
    begun = torch.from_numpy(prompts(shape, todo))
    options = {"do_sample": False, "min_new_tokens": todo.tokens, "max_new_tokens": todo.tokens}

    @torch.inference_mode()
    def step() -> float:
        whole = gpt.generate(begun, attention_mask=torch.ones_like(begun), **options)
        return float(whole[:, todo.prompt :].sum())

    return step, f"transformers {transformers.__version__}, PyTorch {torch.__version__}"


def load(gpt: transformers.GPT2LMHeadModel, shape: Shape) -> None:
    """Copy the competitors' common weights."""
    layout, row = weights(shape)
    tensors = {name: torch.from_numpy(view) for name, view in layout.named(row).items()}
    names = dict(OUTSIDE)
    for i in range(shape.L):
        names |= {f"h.{i}.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in BLOCK.items()}
    parameters = dict(gpt.transformer.named_parameters())
    if set(parameters) != set(names) or set(tensors) != set(names.values()):
        raise ValueError(f"parameters: found {sorted(parameters)}, expected {sorted(names)}")
    with torch.no_grad():
        for theirs, ours in names.items():
            is_conv = ".c_" in theirs and theirs.endswith("weight")
            parameters[theirs].copy_(tensors[ours].T if is_conv else tensors[ours])
