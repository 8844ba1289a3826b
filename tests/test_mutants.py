"""Of small faults in the source, drawn by a seed, the tests beside each module see every one."""

from __future__ import annotations

import pytest

pytest.importorskip("cosmic_ray")

from tests import mutants


@pytest.mark.slow
def test_a_sample_of_mutants_is_seen_by_the_tests_of_their_modules(tmp_path):
    laboratory = mutants.Laboratory(tmp_path)
    survivors = [
        str(mutant)
        for mutant in mutants.sample(mutants.HELD_BY, seed=0, count=40)
        if mutant.has_effect and not laboratory.is_seen(mutant)
    ]
    assert not survivors, "no test sees:\n" + "\n".join(survivors)
