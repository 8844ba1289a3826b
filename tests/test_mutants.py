"""Of small faults in the source, drawn by a seed, the tests beside each module see every one."""

from __future__ import annotations

import pytest

pytest.importorskip("cosmic_ray")

from tests import mutants


def test_every_module_and_test_that_is_named_is_there():
    assert all((mutants.ROOT / module).is_file() for module in mutants.HELD_BY)
    names = {name for tests in mutants.HELD_BY.values() for name in tests.split(" -k ")[0].split()}
    assert all((mutants.ROOT / "tests" / f"test_{name}.py").is_file() for name in names)


@pytest.mark.slow
def test_a_sample_of_mutants_is_seen_by_the_tests_of_their_modules(tmp_path):
    laboratory = mutants.Laboratory(tmp_path)
    survivors = [
        str(mutant)
        for mutant in mutants.sample(mutants.HELD_BY, seed=0, count=40)
        if mutant.has_effect and not laboratory.is_seen(mutant)
    ]
    assert not survivors, "no test sees:\n" + "\n".join(survivors)
