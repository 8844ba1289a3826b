"""What a user who knows how would set to make a framework faster here, and no framework sets itself.

- MKL asks whether the processor is Intel's, and takes AVX2 on others even where AVX-512 is there: a preload
  of one function answers yes. On Intel the stock library takes AVX-512 already.
- tcmalloc keeps freed memory, where glibc returns large blocks to the system and gets them back as pages to
  be cleared again.

Tried on an Intel Skylake and left out, because it helped no further: huge pages for PyTorch's allocator and
for glibc's, threads bound to cores, Intel's OpenMP.
"""

from __future__ import annotations

import atexit
import ctypes.util
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.timing import is_intel

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def environment() -> tuple[dict[str, str], list[str]]:
    """Return the variables to set, and a line on each thing that is in them or is missing."""
    preloads, said = [], []
    if not is_intel():
        library = mkl_preload()
        if library:
            preloads.append(str(library))
        said.append(
            "MKL told that this is an Intel processor" if library else "no C compiler: MKL left on AVX2"
        )
    allocator = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if allocator:
        preloads.append(allocator)
    said.append(f"{allocator} preloaded" if allocator else "no tcmalloc (apt install libtcmalloc-minimal4)")
    return ({"LD_PRELOAD": ":".join(preloads)} if preloads else {}), said


def mkl_here() -> str:
    """Say which way PyTorch's MKL takes as shipped."""
    if is_intel():
        return "PyTorch's MKL: an Intel processor, so it takes AVX-512 as shipped where there is AVX-512"
    return "PyTorch's MKL: not an Intel processor, so it takes AVX2 as shipped, AVX-512 only when tuned"


@functools.cache
def mkl_preload() -> Path | None:
    """Compile the preload into a new directory; None without a C compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        return None
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)
    source, library = directory / "mkl_intel.c", directory / "mkl_intel.so"
    source.write_text(SOURCE, encoding="ascii")
    done = subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], capture_output=True)
    return library if done.returncode == 0 else None
