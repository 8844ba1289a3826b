"""Made before NumPy loads: one BLAS thread. No deadlines; Ctrl-C reaches programs; kernels are warm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from benchmarks.picture import BROWSER  # noqa: E402
from tests.browser import Browser  # noqa: E402

# A shell's background job ignores Ctrl-C, and so would all programs that are started and interrupted here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "tinyllm", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # a deadline too
)  # fmt: skip
settings.load_profile("tinyllm")


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Compile before the first test, so that no program that a test looks at says that it does."""
    from tinyllm import kernels

    kernels.compile_all()
    kernels.compile_decoding()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests that look at pages, skipped where there is none."""
    if BROWSER is None:
        pytest.skip("no chromium here")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
