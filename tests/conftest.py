"""Settings that must be made before NumPy loads: one BLAS thread; and Hypothesis without deadlines (JIT)."""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

from hypothesis import settings  # noqa: E402

settings.register_profile("tinyllm", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("tinyllm")
