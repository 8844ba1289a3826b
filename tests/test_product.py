"""Matrix products have the bits that their definition gives, on every processor: kernels/product.py."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite import binding

from tinyllm.arena import Array
from tinyllm.kernels import product, reference_product

OWN = pytest.mark.skipif(not product.FUSES, reason="no fused multiply-add here: the products are NumPy's")


def room(dtype: type = np.float32) -> Array:
    return np.full(product.ROOM, np.nan, dtype)


def factors(M: int, K: int, N: int, turned: tuple[bool, bool], seed: int = 0) -> tuple[Array, Array]:
    """Return A (M, K) and B (K, N), each as it is or as the transpose of what lies in memory.

    Their numbers, up to 1, are made without a function whose bits a library decides.
    """
    rng = np.random.default_rng(seed)
    a, b = (
        (rng.integers(-(2**23), 2**23, shape[::-1] if other else shape) / 2**23).astype(np.float32)
        for shape, other in zip(((M, K), (K, N)), turned, strict=True)
    )
    return a.T if turned[0] else a, b.T if turned[1] else b


def equal_bits(found: Array, wanted: Array) -> None:
    """As numbers, a zero of either sign is equal, and so are NaNs, of which no bit is promised."""
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found) | np.isnan(found), np.signbit(wanted) | np.isnan(wanted))


SIZES = st.one_of(st.integers(1, 40), st.sampled_from([48, 64, 65, 96, 129]))
DEPTHS = st.one_of(st.integers(0, 40), st.sampled_from([255, 256, 257, 264, 300, 513]))


@OWN
@settings(max_examples=60)
@given(
    M=SIZES, K=DEPTHS, N=SIZES, turned=st.tuples(st.booleans(), st.booleans()), add=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
@example(M=515, K=17, N=33, turned=(True, False), add=True, seed=0)  # more rows than strips lie in L2 of
@example(M=385, K=260, N=16, turned=(False, True), add=True, seed=0)
def test_a_product_has_the_bits_of_its_definition_and_touches_nothing_beside_it(M, K, N, turned, add, seed):
    a, b = factors(M, K, N, turned, seed)
    around = np.random.default_rng(seed).standard_normal((M + 2, N)).astype(np.float32)
    wanted = around.copy()
    reference_product.multiply(wanted[1:-1], a, b, room(), add)
    product.multiply(around[1:-1], a, b, room(), add)
    equal_bits(around, wanted)


@OWN
@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
def test_infinity_nan_and_numbers_at_the_ends_of_the_range_keep_their_bits(turned):
    a, b = factors(19, 270, 37, turned)
    a *= np.float32(1e-19) ** np.random.default_rng(1).integers(
        0, 3, a.shape
    )  # down to 0 by way of subnormals
    b *= np.float32(1e-19) ** np.random.default_rng(2).integers(0, 3, b.shape)
    a[3, 7], a[5, 9], b[100, 11], b[:, 20] = np.inf, np.nan, -np.inf, 3e38
    found, wanted = np.ones((2, 19, 37), np.float32)
    product.multiply(found, a, b, room(), add=True)
    reference_product.multiply(wanted, a, b, room(), add=True)
    equal_bits(found, wanted)
    assert np.isnan(wanted).any() and np.isinf(wanted).any()


@OWN
def test_more_rows_or_columns_do_not_change_those_that_were_there():
    a, b = factors(70, 400, 90, (False, True))
    whole, part = np.empty((70, 90), np.float32), np.empty((41, 50), np.float32)
    product.multiply(whole, a, b, room())
    product.multiply(part, a[9:50], b[:, 7:57], room())
    np.testing.assert_array_equal(part, whole[9:50, 7:57])


def test_blocks_of_256_are_at_least_as_accurate_as_numpy():
    a, b = factors(24, 5000, 40, (False, False))
    exact = a.astype(np.float64) @ b
    found = np.empty((24, 40), np.float32)
    product.multiply(found, a, b, room())

    def error(c: Array) -> float:
        return float(np.sqrt(np.square(c - exact).mean() / np.square(exact).mean()))

    assert error(found) < 5e-7


@pytest.mark.parametrize("add", [False, True])
def test_float64_is_numpys_product(add):
    a, b = (x.astype(np.float64) for x in factors(5, 7, 9, (False, False)))
    found = np.ones((5, 9))
    product.multiply(found, a, b, room(np.float64), add)
    np.testing.assert_allclose(found, a @ b + add, rtol=1e-12)


@OWN
def test_a_factor_with_gaps_is_refused():
    a, b = factors(8, 8, 8, (False, False))
    with pytest.raises(ValueError, match="expected C-contiguous memory or its transpose, found strides"):
        product.multiply(np.empty((8, 4), np.float32), a, b[:, :4], room())


# The reference itself: one rounding, checked with exact fractions.

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(x=FLOATS, y=FLOATS, total=FLOATS)
@example(x=1 + 2**-12, y=1 + 2**-12, total=2.0**30)
@example(x=2.0**-30, y=2.0**-30, total=1 + 2**-23)
@example(x=(1 + 2**-23), y=(1 - 2**-23) * 2**-24, total=1.0)  # twice rounded it would be 1 + 2**-23 or 1
@example(x=-(2.0**-75), y=2.0**-76, total=0.0)
@example(x=2.0**-75, y=2.0**-75 * (1 + 2**-20), total=0.0)
def test_the_references_multiply_add_rounds_once(x, y, total):
    found = reference_product.fused(*(np.array([number], np.float32) for number in (x, y, total)))[0]
    exact = Fraction(x) * Fraction(y) + Fraction(total)
    if np.isinf(found):
        assert abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103  # half a step above the largest
        return
    error = abs(Fraction(float(found)) - exact)
    for neighbour in (np.nextafter(found, np.float32(side)) for side in (-np.inf, np.inf)):
        if np.isfinite(neighbour):
            other = abs(Fraction(float(neighbour)) - exact)
            assert error < other or (error == other and not int(found.view(np.int32)) & 1)


# Other processors

KINDS = [(65, 300, 40, (False, True)), (64, 512, 96, (False, False)), (33, 77, 70, (True, False))]


def digest() -> str:
    """Return a hash of products of three kinds, odd ones among them, written and added to."""
    found = hashlib.sha256()
    for M, K, N, turned in KINDS:
        c = np.empty((M, N), np.float32)
        for add in (False, True):
            product.multiply(c, *factors(M, K, N, turned), room(), add)
            found.update(c.tobytes())
    return found.hexdigest()[:16]


DIGEST = "ba6a5d148aaa5385"


@OWN
def test_the_bits_are_the_same_everywhere():
    assert digest() == DIGEST


@OWN
@pytest.mark.skipif(
    not binding.get_host_cpu_features().get("avx2"), reason="this processor cannot run the code"
)
def test_the_bits_are_the_same_with_the_tile_of_avx2():
    program = "from tests.test_product import digest, product; print(product.ROWS, product.COLUMNS, digest())"
    setting = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    run = subprocess.run([sys.executable, "-c", program], env=setting, capture_output=True, text=True)
    assert run.stdout.split() == ["6", "16", DIGEST], run.stderr
