"""A GPT from scratch in NumPy and Numba: explicit backward, exact resume, fast on a CPU.

This file imports nothing heavy: the command lines set the number of BLAS threads before NumPy loads.
"""

from pathlib import Path

__version__ = "0.1.0"

# A wheel carries the kernels inside the package; a checkout has them beside it.
if not Path(__file__).with_name("kernels").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[1]))
