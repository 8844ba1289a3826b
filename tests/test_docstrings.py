"""The API reference is the docstrings: what each does, its shapes, its errors, its source.

Order: what is public, the statements.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.test_architecture import modules

ARRAY = re.compile(r"^(?!Mapping|dict|Callable).*\b(Array|Ids|NDArray|ndarray)\b")  # but maps of arrays
# (N, C), (n,), (3, size), (B, H, T, T + PAD), (L + 1, 12): at least one comma, names or numbers between
SHAPE = re.compile(r"\((?:[\w+*/ ]+|\.\.\.),(?:[\w+*/ ]+,?)*\)")
PRIVATE_ERRORS = {"NotImplementedError", "StopIteration", "SystemExit", "KeyboardInterrupt"}
# What is from the literature says from where: module -> authors whom its docstrings name.
SOURCES = {
    "kernels.reference": ("Vaswani", "Ba", "Hendrycks", "Srivastava", "He", "Kingma", "Loshchilov", "Dao"),
    "kernels.adam": ("Kingma", "Loshchilov"),
    "kernels.attention": ("Vaswani", "Dao"),
    "kernels.cross_entropy": ("Bridle",),
    "kernels.dropout": ("Srivastava", "Wellons"),
    "kernels.gelu": ("Hendrycks",),
    "kernels.layernorm": ("Ba",),
    "kernels.residual_norm": ("He",),
    "layers.attention": ("Vaswani", "Dao"),
    "layers.dropout": ("Srivastava",),
    "layers.embedding": ("Radford",),
    "layers.head": ("Press",),
    "layers.layernorm": ("Ba",),
    "layers.mlp": ("Vaswani", "Hendrycks"),
    "layers.residual_norm": ("He", "Ba"),
    "model": ("Radford", "Chen"),
    "training.optim": ("Kingma", "Loshchilov", "Pascanu"),
    "run.schedule": ("Loshchilov",),
    "run.stopping": ("Prechelt",),
    "text.bpe": ("Gage", "Sennrich"),
    "text.packing": ("Johnson",),
    "inference.sampling": ("Fan", "Holtzman", "Keskar"),
    "inference.beam": ("Wu",),
}


class Item(NamedTuple):
    """A module, class or function, with the docstrings of the module and class it is a part of."""

    name: str
    node: ast.Module | ast.ClassDef | ast.FunctionDef
    outer: str

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""


def items(name: str) -> Iterator[Item]:
    """Yield the module and all in it that is public: without a leading underscore, inside what is public."""
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    yield Item(name, tree, "")
    for node in tree.body:
        yield from _inside(f"{name}.", node, ast.get_docstring(tree) or "")


def _inside(prefix: str, node: ast.stmt, outer: str) -> Iterator[Item]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
        yield Item(prefix + node.name, node, outer)
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                yield from _inside(f"{prefix}{node.name}.", child, outer + (ast.get_docstring(node) or ""))


def functions(name: str) -> list[Item]:
    return [item for item in items(name) if isinstance(item.node, ast.FunctionDef)]


# Kernels by name; those in kernels/reference*.py have the same arguments, and need not say it again.
TWINS = {
    item.name.rpartition(".")[2]: item.text
    for name in modules()
    if name.startswith("kernels.") and "reference" not in name
    for item in functions(name)
}


def arrays(node: ast.FunctionDef) -> list[str]:
    """Return the parameters that are arrays, by their annotations."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [each.arg for each in every if each.annotation and ARRAY.search(ast.unparse(each.annotation))]


def errors(node: ast.AST) -> set[str]:
    """Return the names of the exceptions that are raised in the body itself and not caught there."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = raised.attr if isinstance(raised, ast.Attribute) else ast.unparse(raised)
        return {name} - PRIVATE_ERRORS if name[:1].isupper() else set()
    found, caught = set(), set()
    if isinstance(node, ast.Try):
        types = [ast.unparse(handler.type) for handler in node.handlers if handler.type]
        caught = {name for each in types for name in re.findall(r"\w+", each)}
        caught -= set().union(*(errors(each) for part in ("handlers", "orelse", "finalbody")
                                for each in getattr(node, part)))  # fmt: skip
    for each in ast.iter_child_nodes(node):
        if not isinstance(each, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            found |= errors(each)
    return found - caught


def said(item: Item) -> str:
    return f"{item.name}: {item.text or 'no docstring'}"


@pytest.mark.parametrize("name", list(modules()))
def test_the_first_line_of_every_docstring_is_one_sentence(name):
    lines = {said(item): item.text.split("\n")[0] for item in items(name)}
    assert not [item for item, first in lines.items() if not first.endswith(".")]
    assert not [item for item, first in lines.items() if re.search(r"(?<!\bal)[a-z)`\]]\. [A-Z]", first)]


@pytest.mark.parametrize("name", list(modules()))
def test_a_function_of_arrays_names_their_shapes(name):
    excused = TWINS if name.startswith("kernels.reference") else {}
    found = [item for item in functions(name) if arrays(item.node)]
    texts = {said(item): item.text + excused.get(item.name.rpartition(".")[2], "") for item in found}
    assert not [item for item, text in texts.items() if not SHAPE.search(text)]


@pytest.mark.parametrize("name", list(modules()))
def test_a_function_that_raises_says_which_error(name):
    missing = {
        said(item): [error for error in errors(item.node) if error not in item.text + item.outer]
        for item in functions(name)
    }
    assert not {item: names for item, names in missing.items() if names}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_from_the_literature_says_from_where(name):
    text = "\n".join(item.text for item in items(name))
    for author in SOURCES[name]:
        assert re.search(rf"\b{author}\b.*?\b(19|20)\d\d\b", text, re.S), f"{name}: {author}"
