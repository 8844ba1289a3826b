"""A GPT from scratch in NumPy and Numba: explicit backward, exact resume, fast on a CPU.

In Python: `tinyllm.load("checkpoints").generate("The sun")`, and `tinyllm.fit` (api.py). This file imports
nothing heavy: the command lines set the number of BLAS threads before NumPy loads.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyllm.api import fit as fit
    from tinyllm.api import load as load

__version__ = "0.1.0"

# A wheel carries the kernels inside the package; a checkout has them beside it.
if not Path(__file__).with_name("kernels").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))

_FROM_API = ("fit", "load")


def __getattr__(name: str) -> Any:
    if name not in _FROM_API:
        raise AttributeError(f"module 'tinyllm' has no attribute {name!r}")
    from tinyllm.parallel.threads import set_blas_threads

    set_blas_threads(1)  # before NumPy loads, if it has not: threads of our own share the work
    from tinyllm import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_API})
