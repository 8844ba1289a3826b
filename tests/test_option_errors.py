"""A wrong command line is answered in one line, which names what was meant, and one hint."""

from __future__ import annotations

import argparse

import pytest

from tinyllm import chat, encode, evaluate, explain, generate, report
from tinyllm.checkpoint import __main__ as checkpoint
from tinyllm.cli import main, options, spellings
from tinyllm.cli.parser import Parser
from tinyllm.cli.spellings import OTHER_NAMES, REASONS, bare, meant
from tinyllm.parallel.threads import most_threads

DOORS = {
    "train": options.options, "generate": generate.options, "chat": chat.options, "explain": explain.options,
    "evaluate": evaluate.options, "tokenize": encode.options, "report": report.main,
    "checkpoint": checkpoint.main,
}  # fmt: skip


def parsers():
    """Return the parser of every program, and of every command of one, by its name."""
    found = {}

    def keep(parser, *_):
        found[parser.prog] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found.update({each.prog: each for each in action.choices.values()})
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", keep)
        for door in DOORS.values():
            with pytest.raises(KeyboardInterrupt):
                door([])
    return found


PARSERS = parsers()
OPTIONS = [
    (name, option) for name, parser in PARSERS.items() for option in parser._option_string_actions
    if option.startswith("--")
]  # fmt: skip


def said(line, capsys):
    """Return the error that a command line prints; its words are cut at spaces, or at | if it has any."""
    words = line.split("|") if "|" in line else line.split()
    try:
        code = main.main(words)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 2  # the error and one hint
    assert "--help lists the " in err.splitlines()[1]
    return err.splitlines()[0].removeprefix("error: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --max-iters 5", "unknown option --max-iters: did you mean --max-steps?"),
        ("train --learning_rate=1e-3", "unknown option --learning_rate: did you mean --lr?"),
        ("train --gradient-accumulation-steps 4",
         "unknown option --gradient-accumulation-steps: did you mean --accumulate?"),
        ("train --n_layer=2", "unknown option --n_layer: did you mean --n-layer?"),
        ("train --init_from=gpt2", "unknown option --init_from: did you mean --init-from?"),
        ("train --eval_interval=9", "unknown option --eval_interval: did you mean --eval-every?"),
        ("train --warmup_iters=9", "unknown option --warmup_iters: did you mean --warmup?"),
        ("train --out_dir=x", "unknown option --out_dir: did you mean --checkpoint-dir?"),
        ("train --device=cuda", "unknown option --device: models are computed on the CPU"),
        ("train --compile=False --zzz",
         "unknown option --compile: kernels are always compiled; unknown option --zzz"),
        ("train --epoch 3", "unknown option --epoch: did you mean --epochs?"),
        ("train -lr 3", "unknown option -lr: did you mean --lr?"),
        ("train —resume", "found '—resume' where no argument is expected: did you mean --resume?"),
        ("train config.py", "found 'config.py' where no argument is expected"),
        ("train n_layer=2", "found 'n_layer=2' where no argument is expected: did you mean --n-layer?"),
        ("train --epochs 1.5", "--epochs: found '1.5', expected a whole number"),
        ("train --lr fast", "--lr: found 'fast', expected a number"),
        ("train --lr", "--lr: found no value, expected a number"),
        ("train --data",
         "--data: found no value, expected PATH; a value that begins with - is written --data=-..."),
        ("train --tokenizer cahr", "--tokenizer: found 'cahr', expected bpe or char; did you mean char?"),
        ("train --monitor both", "--monitor: found 'both', expected train or val"),
        ("train --documents=no",
         "--documents: found the value 'no', expected --documents or --no-documents alone"),
        ("generate --max_new_tokens=5", "unknown option --max_new_tokens: did you mean --max-tokens?"),
        ("generate --start=x", "unknown option --start: did you mean --prompt?"),
        ("generate --out_dir=x", "unknown option --out_dir: MODEL is given without an option"),
        ("generate x --threads 2", "unknown option --threads: did you mean --blas-threads?"),
        ("chat", "MODEL is missing"),
        ("chat|--promt=hello you", "unknown option --promt: did you mean --prompt?"),
        ("chat x --prompt --foo",
         "--prompt: found no value, expected TEXT; a value that begins with - is written --prompt=-..."),
        ("explain", "MODEL, --prompt are missing"),
        ("evaluate --threads 2", "unknown option --threads: did you mean --workers?"),
        ("evaluate --json", "MODEL is missing"),
        ("evaluate x --chat_data=y", "unknown option --chat_data: did you mean --chat-data?"),
        ("evaluate x --data", "--data: found no value, expected TEXT; a value that begins with - is written "
         "--data=-..."),
        ("evaluate x --answers all", "--answers: found 'all', expected a whole number"),
        ("evaluate x --worst=-1", "--worst: found -1, expected at least 0"),
        ("evaluate x --workers 0", f"--workers: found 0, expected at least 1 and at most {most_threads()}"),
        ("tokenize", "MODEL is missing"),
        ("tokenize x y", "found 'y' where no argument is expected"),
        ("tokenize x --start=y", "unknown option --start: did you mean --prompt?"),
        ("tokenize x --decode",
         "--decode: found no value, expected ID; a value that begins with - is written --decode=-..."),
        ("tokenize x --ids --decode 1", "--decode: not allowed with argument --ids"),
        ("tokenize x --decode 1 --prompt=y",
         "--decode prints ids as text, --prompt a text as tokens: give one of them"),
        ("report --ot x", "unknown option --ot: did you mean --out?"),
        ("checkpoint", "found no command, expected ls, show, diff, verify, export or rm"),
        (
            "checkpoint lst",
            "command: found 'lst', expected ls, show, diff, verify, export or rm; did you mean ls?",
        ),
        ("checkpoint show x --jsn", "unknown option --jsn: did you mean --json?"),
        ("checkpoint rm x y", "found 'y' where no argument is expected"),
        ("trian", "unknown program 'trian'; did you mean train?"),
        ("sample", "unknown program 'sample'; did you mean generate?"),
        ("quux", "unknown program 'quux'"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line_and_one_hint(line, message, capsys):
    assert said(line, capsys) == message


NANOGPT = {
    "train": "batch_size block_size n_layer n_head n_embd dropout learning_rate max_iters weight_decay beta1 "
    "beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr out_dir eval_interval log_interval "
    "eval_iters eval_only always_save_checkpoint init_from wandb_log wandb_project wandb_run_name dataset "
    "bias gradient_accumulation_steps backend device dtype compile",
    "generate": "start num_samples max_new_tokens temperature top_k seed device dtype compile out_dir",
}


@pytest.mark.parametrize("program", NANOGPT)
def test_every_option_of_nanogpt_is_an_option_or_is_answered(program):
    parser = PARSERS[f"tinyllm {program}"]
    for name in NANOGPT[program].split():
        assert meant(f"--{name}", parser._option_string_actions, parser._arguments()), name


@pytest.mark.parametrize(("program", "option"), OPTIONS, ids=lambda text: text.removeprefix("tinyllm "))
def test_every_option_of_every_program_is_found_again_after_a_slip(program, option, capsys):
    for wrong in {option.replace("-", "_").replace("__", "--"), option[1:], option + "e", option.upper()}:
        parser = PARSERS[program]
        if wrong in parser._option_string_actions:
            continue
        with pytest.raises(SystemExit) as end:
            parser.parse_args([wrong])
        printed = capsys.readouterr().err
        assert end.value.code == 2 and printed.endswith(f"\n{program} --help lists the options\n")
        assert printed.startswith(f"error: unknown option {wrong}: did you mean {option}?\n")


def test_every_other_name_leads_to_an_option_and_is_none_itself():
    known = {bare(option) for _, option in OPTIONS}
    arguments = {name for parser in PARSERS.values() for name in parser._arguments()}
    assert {other for others in OTHER_NAMES.values() for other in others} <= known | arguments
    assert not (OTHER_NAMES.keys() | REASONS.keys()) & known
    assert not OTHER_NAMES.keys() & REASONS.keys()
    assert all(name == bare(name) for name in (*OTHER_NAMES, *REASONS))
    assert set(main.OTHER_NAMES.values()) <= set(main.PROGRAMS)


def test_what_is_spelled_like_nothing_gets_no_advice():
    assert spellings.closest("no-such-option", ["no-documents", "no-samples"]) == ""
    assert meant("--", ["--lr"]) == meant("-e", ["--epochs"]) == meant("--no", ["--no-samples"]) == ""
