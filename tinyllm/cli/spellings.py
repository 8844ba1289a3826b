"""Which option was meant: names that other programs use for the same, and what is spelled almost alike.

Order: the names, the reasons for options that do not exist, the choice.
"""

from __future__ import annotations

from collections.abc import Iterable

DASHES = "-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"  # editors and chats make the others of two hyphens

# Of nanoGPT, of Hugging Face's trainer, of llama.cpp; the first that a program has is meant. A name in
# capitals is an argument without an option.
OTHER_NAMES = {
    "max-iters": ("max-steps",),
    "steps": ("max-steps",),
    "iters": ("max-steps",),
    "num-train-epochs": ("epochs",),
    "num-epochs": ("epochs",),
    "max-epochs": ("epochs",),
    "n-epochs": ("epochs",),
    "learning-rate": ("lr",),
    "warmup-iters": ("warmup",),
    "warmup-steps": ("warmup",),
    "gradient-accumulation-steps": ("accumulate",),
    "grad-accum": ("accumulate",),
    "max-grad-norm": ("grad-clip",),
    "per-device-train-batch-size": ("batch-size",),
    "adam-beta1": ("beta1",),
    "adam-beta2": ("beta2",),
    "adam-epsilon": ("epsilon",),
    "adam-eps": ("epsilon",),
    "eval-interval": ("eval-every",),
    "eval-steps": ("eval-every",),
    "early-stopping-patience": ("patience",),
    "save-steps": ("save-every-steps",),
    "save-interval": ("save-every-steps",),
    "save-total-limit": ("keep-best-n",),
    "always-save-checkpoint": ("strategy",),
    "save-strategy": ("strategy",),
    "gradient-checkpointing": ("recompute",),
    "resume-from-checkpoint": ("resume-from",),
    "out-dir": ("checkpoint-dir", "MODEL", "RUN", "PATH"),
    "output-dir": ("checkpoint-dir", "MODEL", "RUN", "PATH"),
    "save-dir": ("checkpoint-dir",),
    "model": ("init-from", "MODEL"),
    "checkpoint": ("resume-from", "MODEL"),
    "ckpt": ("resume-from", "MODEL"),
    "output": ("out",),
    "dataset": ("data",),
    "train-data": ("data",),
    "train-file": ("data",),
    "layers": ("n-layer",),
    "num-layers": ("n-layer",),
    "num-hidden-layers": ("n-layer",),
    "heads": ("n-head",),
    "num-heads": ("n-head",),
    "num-attention-heads": ("n-head",),
    "d-model": ("n-embd",),
    "hidden-size": ("n-embd",),
    "embed-dim": ("n-embd",),
    "context-length": ("block-size",),
    "ctx-size": ("block-size",),
    "seq-len": ("block-size",),
    "max-seq-length": ("block-size",),
    "threads": ("workers", "blas-threads"),
    "num-workers": ("workers", "blas-threads"),
    "start": ("prompt",),
    "max-new-tokens": ("max-tokens",),
    "max-length": ("max-tokens",),
    "n-predict": ("max-tokens",),
    "num-return-sequences": ("num-samples",),
    "num-beams": ("beams",),
    "repeat-penalty": ("repetition-penalty",),
    "system-prompt": ("system",),
}

REASONS = {
    "device": "models are computed on the CPU",
    "gpu": "models are computed on the CPU",
    "dtype": "numbers are float32",
    "compile": "kernels are always compiled",
    "backend": "a run is one process; --workers sets its threads",
    "bias": "linear layers and norms always have biases, as in GPT-2",
    "decay-lr": "with --min-lr equal to --lr the rate stays constant",
    "lr-decay-iters": "the rate decays until the end of a phase, which --epochs or --max-steps sets",
    "lr-scheduler-type": "the schedule is a linear warm-up and a cosine",
    "eval-iters": "each evaluation reads all validation data; --val-fraction sets how much that is",
    "eval-only": "tinyllm checkpoint show prints the losses of a checkpoint",
    "log-interval": "every update is logged in metrics.jsonl",
    "logging-steps": "every update is logged in metrics.jsonl",
    "wandb-log": "tinyllm report draws the log of a run",
    "wandb-project": "tinyllm report draws the log of a run",
    "wandb-run-name": "tinyllm report draws the log of a run",
    "report-to": "tinyllm report draws the log of a run",
}


def bare(word: str) -> str:
    """Return the name in an option as it may be written: `--n_layer=2` -> `n-layer`."""
    return word.partition("=")[0].lstrip(DASHES).replace("_", "-").lower()


def meant(word: str, options: Iterable[str], arguments: Iterable[str] = ()) -> str:
    """Return what to say of an unknown option, "" if nothing is known.

    `options` are those of the program, with their dashes; `arguments` are named in capitals.
    """
    name, names = bare(word), {option[2:] for option in options if option.startswith("--")}
    for other in (name, *OTHER_NAMES.get(name, ())):
        if other in names:
            return f"did you mean --{other}?"
        if other in arguments:
            return f"{other} is given without an option"
    if name in REASONS:
        return REASONS[name]
    longer = [other for other in names if len(name) > 2 and other.startswith(name)]
    found = longer[0] if len(longer) == 1 else closest(name, names)
    return f"did you mean --{found}?" if found else ""


def closest(word: str, known: Iterable[str]) -> str:
    """Return which of the known words is spelled most like `word`, "" if none is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, sorted(known), 1, cutoff=0.7)), "")
