"""What a user who knows how would set to make a framework faster on this machine, and no framework sets itself.

- MKL asks whether the processor is Intel's, and takes AVX2 on others even where AVX-512 is there: a preload
  of one function answers yes. On Intel the stock library takes AVX-512 already.
- tcmalloc keeps freed memory, where glibc returns large blocks to the system and gets them back as pages to
  be cleared anew.
- PyTorch asks for huge pages only when told to (THP_MEM_ALLOC_ENABLE).
"""

from __future__ import annotations

import ctypes.util
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def environment() -> tuple[dict[str, str], list[str]]:
    """Return the variables to set, and a line on each thing that is in it or is missing."""
    preloads, said = [], []
    if is_intel():
        said.append("Intel processor: MKL takes AVX-512 without help")
    elif library := mkl_preload():
        preloads.append(str(library))
        said.append("MKL told that the processor is Intel's")
    else:
        said.append("no C compiler: MKL is left on AVX2")
    if library := ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc"):
        preloads.append(library)
        said.append(f"{library} preloaded")
    else:
        said.append("tcmalloc not found (apt install libtcmalloc-minimal4)")
    said.append("THP_MEM_ALLOC_ENABLE=1")
    variables = {"THP_MEM_ALLOC_ENABLE": "1"}
    if preloads:
        variables["LD_PRELOAD"] = ":".join(preloads)
    return variables, said


def is_intel() -> bool:
    """Whether the processor says it is Intel's."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


@functools.cache
def mkl_preload() -> Path | None:
    """Compile the preload into a new directory; None without a C compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        return None
    directory = Path(tempfile.mkdtemp(prefix="tinyllm-bench-"))
    source, library = directory / "mkl_intel.c", directory / "mkl_intel.so"
    source.write_text(SOURCE, encoding="ascii")
    done = subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], capture_output=True)
    return library if done.returncode == 0 else None
