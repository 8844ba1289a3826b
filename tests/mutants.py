"""Mutants: small faults that Cosmic Ray makes in the source; a test beside each module should see them.

A mutant has one operator, condition or small constant changed. It is tested in a copy of the repository, by
the few test files that should hold its module. Order: changes, modules, mutants without effect; a mutant, a
sample, how one is tested, the command line.

    python -m tests.mutants --seed 0 --count 10 tinyllm/run tinyllm/parallel
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

from tinyllm import rng

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = (
    "AddNot", "NumberReplacer", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue", "ReplaceUnaryOperator_Delete_Not",
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul",
    )),
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is",
    )),
)  # fmt: skip
# The tests that should hold each module, the fastest first: tests/test_<name>.py, and pytest's -k.
HELD_BY = {
    "tinyllm/run/phases.py": "run",
    "tinyllm/run/schedule.py": "run",
    "tinyllm/run/state.py": "run step",
    "tinyllm/run/stopping.py": "run",
    "tinyllm/training/optim.py": "optim",
    "tinyllm/training/step.py": "step",
    "tinyllm/training/metrics.py": "metrics",
    "tinyllm/checkpoint/policy.py": "checkpoint_policy",
    "tinyllm/checkpoint/metadata.py": "checkpoint_policy",
    "tinyllm/parallel/team.py": "comm",
    "tinyllm/parallel/threads.py": "step",
    "tinyllm/arena.py": "arena",
    "tinyllm/rng.py": "sampling step",
    "tinyllm/config.py": "config options",
    "tinyllm/option.py": "config options",
    "tinyllm/inference/sampling.py": "sampling",
    "tinyllm/inference/beam.py": "beam",
    "tinyllm/inference/settings.py": "sampling -k refus",
    "tinyllm/text/packing.py": "packing",
    "tinyllm/text/bpe.py": "bpe",
    "tinyllm/text/tokenizer.py": "tokenizer",
    "tinyllm/layers/attention.py": "gradients explain -k attention or weights",
    "tinyllm/layers/blockwise.py": "gradients -k attention",
    "tinyllm/layers/linear.py": "gradients -k linear or micro",
    "tinyllm/layers/head.py": "gradients -k head",
    "tinyllm/layers/mlp.py": "gradients -k mlp",
    "tinyllm/layers/dropout.py": "gradients -k whole or micro",
    "tinyllm/layers/embedding.py": "gradients -k embedding",
    "kernels/batch.py": "kernels -k fill_batch",
    "kernels/shares.py": "shares",
}
# What a mutant's text contains, and why no test can or need see it.
WITHOUT_EFFECT = {
    "@dataclass(frozen=False)": "frozen forbids assignments that nobody makes; mypy sees them too",
    "if piece.start <= piece.stop:": "a kernel changes nothing on no elements",
    "for rank in range(self.workers + 2)]": "no rank has the share beyond the last",
    "-> self._pool = ThreadPoolExecutor(size - 0": "one more thread has nothing to do, and is never started",
    ".tolist(), strict=False)": "both lists come from one array",
    "merges[1::2], strict=False)": "an odd number was refused just before",
    "-> if 0 < sampling.top_k <= tokens.size": "the k largest of k are all",
    "np.where(old >= 0, old / penalty": "0 divided or multiplied is 0",
    "-> BUCKETS, REACH =": "buckets decide how much is sorted, not what is kept",
    "-> bucket = np.minimum(distances": "the last bucket is sorted like any other",
    "-> self.left = np.arange(-1, row.size - 0)": "the position behind the last has no token",
    "enumerate(self.pieces[:- 2])": "a character without an entry is made of its bytes, to the same token",
    "np.full(sys.maxunicode + 1, - 2": "any number below 0 says that there is none",
}
# Tested as plain Python, for each of its mutants would have all kernels compiled again.
UNCOMPILED = ("kernels/batch.py",)


@dataclass(frozen=True)
class Mutant:
    """One change of one module: the `occurrence`-th place where `operator` applies."""

    module: str  # a path below the root
    operator: str
    occurrence: int

    def source(self) -> str:
        """Return the changed text of the module."""
        changed = MutationVisitor.mutate_code(_text(self.module), _operator(self.operator), self.occurrence)
        assert changed is not None
        return changed

    @property
    def has_effect(self) -> bool:
        """Whether it is not among those known to have none."""
        return not any(change in str(self) for change in WITHOUT_EFFECT)

    def __str__(self) -> str:
        """Name the place and say what is changed."""
        pairs = enumerate(zip(_text(self.module).splitlines(), self.source().splitlines(), strict=True), 1)
        line, (before, after) = next((line, pair) for line, pair in pairs if pair[0] != pair[1])
        return f"{self.module}:{line}: {before.strip()} -> {after.strip()}"


def _text(module: str) -> str:
    return (ROOT / module).read_text(encoding="utf-8")


def _operator(name: str) -> Operator:
    return get_operator(f"core/{name}")()


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yield all mutants of a module."""
    nodes = list(ast_nodes(get_ast(_text(module))))
    for name in OPERATORS:
        operator = _operator(name)
        places = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        yield from (Mutant(module, name, occurrence) for occurrence in range(places))


def sample(modules: Iterable[str], seed: int, count: int) -> list[Mutant]:
    """Return `count` mutants of the modules, or all if there are fewer.

    An edit of a module changes which of its mutants are drawn, and leaves those of the others.
    """
    everything = [mutant for module in modules for mutant in mutants_of(module)]
    return sorted(everything, key=lambda m: rng.key(seed, m.module, m.operator, m.occurrence))[:count]


class Laboratory:
    """A copy of the repository in which mutants are tested, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seconds: dict[str, float] = {}  # what a module's tests take without a mutant
        for part in ("tinyllm", "kernels", "tests", "benchmarks", "docs"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("setup.cfg", "pyproject.toml", "README.md", "README.zh.md"):
            shutil.copy(ROOT / file, folder)

    def is_seen(self, mutant: Mutant) -> bool:
        """Return whether a test of the mutant's module fails; raise RuntimeError if one fails without it."""
        if mutant.module not in self._seconds:
            began = time.monotonic()
            if not self._passes(mutant.module, {}, None):
                raise RuntimeError(f"the tests of {mutant.module} fail on the source as it is")
            self._seconds[mutant.module] = time.monotonic() - began
        path = self.folder / mutant.module
        original, status = path.read_bytes(), path.stat()
        path.write_text(mutant.source(), encoding="utf-8")
        try:
            # Python may keep what it compiled of the source as it is, by its time, but nothing of a mutant.
            # One that runs for much longer than that hangs, and so is seen.
            patience = 20 + 5 * self._seconds[mutant.module]
            return not self._passes(mutant.module, {"PYTHONDONTWRITEBYTECODE": "1"}, patience)
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _passes(self, module: str, variables: dict[str, str], seconds: float | None) -> bool:
        names, *choice = HELD_BY[module].split(" -k ")
        files = [f"tests/test_{name}.py" for name in names.split()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
        variables = {"CI": "1", "NUMBA_CACHE_DIR": str(self.folder / "compiled"), **variables}
        if module in UNCOMPILED:
            variables["NUMBA_DISABLE_JIT"] = "1"
        null = subprocess.DEVNULL
        try:
            done = subprocess.run(
                [*command, *(f"-k={expression}" for expression in choice)], cwd=self.folder, timeout=seconds,
                env=os.environ | variables, stdin=null, stdout=null, stderr=null,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main() -> None:
    """Test a sample of each module's mutants, and print those that no test sees."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("modules", nargs="*", default=[""], help="beginnings of their paths (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10, help="mutants of each module")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        for module in (module for module in HELD_BY if module.startswith(tuple(options.modules))):
            drawn = sample([module], options.seed, options.count)
            unseen = [mutant for mutant in drawn if mutant.has_effect and not laboratory.is_seen(mutant)]
            without = sum(not mutant.has_effect for mutant in drawn)
            print(
                f"{module}: {len(drawn)} mutants, {without} without effect, {len(unseen)} not seen",
                flush=True,
            )
            print(*(f"  {mutant}\n" for mutant in unseen), sep="", end="", flush=True)


if __name__ == "__main__":
    main()
