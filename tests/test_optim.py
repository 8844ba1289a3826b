"""Clipping and Adam, each against its definition, and how workers share the rows."""

from __future__ import annotations

import numpy as np
import pytest

from tinyllm.arena import ALIGNMENT, Layout, tensor
from tinyllm.config import TrainConfig
from tinyllm.training.optim import Update, clip_factor, slices, update_


@pytest.mark.parametrize("size", [1, 16, 17, 160, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_slices_cover_all_once_in_whole_cache_lines_shared_equally(size, parts):
    found = slices(size, parts)
    assert len(found) == parts
    assert [i for part in found for i in range(size)[part]] == list(range(size))
    assert all(part.start % ALIGNMENT == 0 or part.start == size for part in found)
    lines = [-(-(part.stop - part.start) // ALIGNMENT) for part in found]
    assert max(lines) - min(lines) <= 1


@pytest.mark.parametrize(
    ("norm", "limit", "factor"), [(4.0, 1.0, 0.25), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (9.0, 0.0, 1.0)]
)
def test_a_gradient_is_scaled_to_the_limit_only_above_it(norm, limit, factor):
    assert clip_factor(norm, limit) == factor


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_an_update_is_adams_and_decays_matrices_only(parts):
    layout = Layout((tensor(20), tensor(5, 9), tensor(3, 7)))
    rng = np.random.default_rng(0)
    rows, gradient = np.zeros((3, layout.size)), np.zeros(layout.size)
    for row in (rows[0], rows[1], gradient):
        for view in layout.named(row).values():
            view[:] = rng.normal(size=view.shape)
    for view in layout.named(rows[2]).values():
        view[:] = rng.random(view.shape)
    config = TrainConfig(weight_decay=0.3, beta1=0.8, beta2=0.9, epsilon=1e-3)
    g = 0.5 * gradient
    m = 0.8 * rows[1] + 0.2 * g
    v = 0.9 * rows[2] + 0.1 * g**2
    decay = np.where(np.arange(layout.size) < layout.matrices, 0.3, 0.0)
    step = (m / (1 - 0.8**4)) / (np.sqrt(v / (1 - 0.9**4)) + 1e-3)
    params = rows[0] - 0.01 * (step + decay * rows[0])
    for part in slices(layout.size, parts):
        update_(rows, gradient, part, layout, config, Update(lr=0.01, timestep=4, factor=0.5))
    np.testing.assert_allclose(rows, [params, m, v], rtol=1e-12)
