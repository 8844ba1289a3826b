"""The one place where Numba's options live, and why; and where compiled kernels are kept.

Order: the options, the cache directory, the decorator, addresses, one option more.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba
import numpy.typing as npt
from numba.extending import lower_builtin, type_callable

Array = npt.NDArray[Any]
config: Any = numba.config

# - error_model="numpy": x / 0 is inf, as in NumPy. The default tests every divisor, and a branch in a
#   loop keeps it scalar (GELU 14 times slower).
# - fastmath without "nnan" and "ninf": sums may be reordered, hence vectorised, but a NaN stays a NaN.
#   fastmath=True folds isnan(x) to False and so hides the trouble it causes.
# - nogil: worker threads run kernels side by side, each on its share of the batch.
# - no parallel=True: threads split the batch, not the loops. Two thread pools would fight for the cores,
#   and a parallel kernel takes three times longer to compile.
# - no_cfunc_wrapper: nobody calls a kernel from C; leaving that entry out saves compile time.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
    "no_cfunc_wrapper": True,
}
# For arithmetic whose order is its accuracy, such as exp's reduction of its argument: no "reassoc".
ORDERED: Any = {"error_model": "numpy", "fastmath": {"contract", "nsz"}}


def _fingerprint() -> str:
    """Hash all that decides the machine code: the kernels' sources, Numba, Python and the processor.

    Numba's own check looks only at the file in which a function stands, and would keep a kernel whose
    callee in another file has changed.
    """
    processor = (config.CPU_NAME or llvm.get_host_cpu_name(), config.CPU_FEATURES)
    setting = (numba.__version__, sys.version, processor, config.BOUNDSCHECK)
    digest = hashlib.blake2b(repr(setting).encode(), digest_size=8)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME", "")  # its specification: "If an implementation encounters a
    # relative path in any of these variables it should consider the path invalid and ignore it."
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def _usable_cache() -> tuple[Path | None, str]:
    """Return the directory for compiled kernels; or None, and what is wrong with it if it is not safe."""
    try:
        root = Path(config.CACHE_DIR) if config.CACHE_DIR else _user_cache() / "tinyllm"
        directory = root.resolve() / f"jit-{_fingerprint()}"
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
        if problem := _danger(directory):
            return None, problem
        tempfile.TemporaryFile(dir=directory).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None, ""
    return directory, ""


def _danger(directory: Path) -> str:
    """Return why another user could put files into the directory, which Numba would unpickle: run as code."""
    if not hasattr(os, "geteuid"):
        return ""
    for path in (directory, *directory.parents):
        status = path.stat()
        if status.st_uid not in (os.geteuid(), *([] if path == directory else [0])):
            why = "belongs to another user"
        elif status.st_mode & 0o022 and (path == directory or not status.st_mode & stat.S_ISVTX):
            why = "may be written to by others"  # in a sticky directory only the owner moves what is in it
        else:
            continue
        return f"{path} {why}: no compiled kernels are kept in {directory.parent}; every run compiles its own"
    return ""


# Not the sources' __pycache__, Numba's first choice: an install may be read-only, and an uninstall would
# leave the compiled files behind, in a ghost of the package. None: no place that is writable and safe, so
# every process compiles again; CACHE_PROBLEM says what a person can mend.
CACHE_DIR, CACHE_PROBLEM = _usable_cache()

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile `function` at its first call with each combination of argument types, and keep the result."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_DIR or "")
    try:
        return cast(F, numba.njit(cache=CACHE_DIR is not None, **OPTIONS)(function))
    finally:
        config.CACHE_DIR = before


def address(x: Array) -> int:
    """Return where the data of x (size,) begin, for kernels that read and write memory by themselves."""
    found: int = x.__array_interface__["data"][0]  # several times faster than x.ctypes.data
    return found


def wide_vectors() -> None:
    """Let LLVM use 512-bit vectors in the kernel whose first line calls this, where the processor has them.

    On some of these processors (skylake-avx512) LLVM prefers 256 bits, for fear of a lower clock, which the
    matrix products have brought about anyway; on others (znver4) it takes 512 unasked. Numba has no option
    for it, LLVM an attribute of functions. Kernels that compute much for each number call it; those that
    wait for memory gain nothing.
    """


@type_callable(wide_vectors)
def _type_wide_vectors(_: Any) -> Callable[[], Any]:
    return lambda: numba.types.none


@lower_builtin(wide_vectors)  # type: ignore[no-untyped-call,untyped-decorator]
def _lower_wide_vectors(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
    # llvmlite's own `add` refuses all but the flags it knows; what is in the set is printed as it stands.
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')
    return context.get_dummy_value()
