"""What is drawn is what the options ask for: compared with the definitions, spelt out by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.inference.sampling import BUCKETS, REACH, SamplingError, candidates, sample
from tinyllm.inference.settings import GREEDY, Sampling
from tinyllm.option import ConfigError
from tinyllm.rng import generator

# Few different values, so that ties are common.
logits_lists = st.lists(st.integers(-6, 6).map(lambda i: i / 2), min_size=1, max_size=12)
unit = st.floats(0, 1, exclude_max=True)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 13),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 4.0]),
)


def distribution(logits, sampling, seen=()):
    """Return the probabilities of all tokens."""
    probabilities = np.zeros(len(logits))
    tokens, kept = candidates(logits, sampling, seen)
    assert (np.diff(tokens) > 0).all()
    probabilities[tokens] = kept
    return probabilities


def draw_of(probabilities, u):
    return sample(np.arange(len(probabilities)), probabilities, u)


def by_definition(logits, sampling, seen):
    """Return {token: probability} by the words of the help, one token at a time."""
    scores = {}
    for token, logit in enumerate(logits):
        if token in seen:
            logit = logit / sampling.repetition_penalty if logit > 0 else logit * sampling.repetition_penalty
        scores[token] = logit
    ranked = sorted(scores, key=lambda token: (-scores[token], token))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    weight = {token: math.exp((scores[token] - scores[ranked[0]]) / sampling.temperature) for token in ranked}
    if sampling.top_p < 1:
        total, kept, mass = math.fsum(weight.values()), [], 0.0
        for token in ranked:
            kept.append(token)
            mass += weight[token]
            if mass >= sampling.top_p * total:
                break
        ranked = kept
    total = math.fsum(weight[token] for token in ranked)
    return {token: weight[token] / total for token in ranked}


@given(logits=logits_lists, sampling=samplings, data=st.data())
@settings(max_examples=300)
def test_all_options_together_give_the_distribution_of_their_definitions(logits, sampling, data):
    seen = data.draw(st.sets(st.integers(0, len(logits) - 1)))
    found = distribution(np.array(logits, np.float32), sampling, seen)
    expected = by_definition(logits, sampling, seen)
    assert {token: pytest.approx(p, rel=1e-9) for token, p in expected.items() if p} == {
        token: p for token, p in enumerate(found) if p
    }


@given(
    seed=st.integers(0, 2**32 - 1), V=st.integers(1, 5000), spread=st.sampled_from([0.0, 0.01, 1.0, 20.0]),
    k=st.integers(0, 5001), p=st.one_of(st.just(1.0), st.floats(0.001, 0.999)),
    temperature=st.sampled_from([0.01, 0.8, 3.0]),
)  # fmt: skip
def test_what_buckets_keep_is_what_sorting_the_whole_vocabulary_keeps(seed, V, spread, k, p, temperature):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal(V)).astype(np.float32)
    logits[rng.random(V) < 0.2] = logits[0]  # equals
    distances = (np.float64(logits.max()) - logits) / temperature
    order = np.argsort(distances, kind="stable")[: k or None]
    weights = np.exp(-distances[order])
    if p < 1:
        order = order[: np.searchsorted(weights.cumsum(), p * weights.sum() * (1 - 1e-12)) + 1]
    tokens, _ = candidates(logits, Sampling(temperature, k, p))
    np.testing.assert_array_equal(tokens, np.sort(order))


def test_tokens_beyond_the_last_bucket_are_sorted_too():
    logits = -2 * REACH * np.arange(5.0)[[3, 0, 4, 2, 1]]
    assert candidates(logits, Sampling(top_k=3))[0].tolist() == [1, 3, 4]
    assert BUCKETS > 2


@given(logits=logits_lists, p=st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_whose_mass_reaches_p(logits, p):
    whole = distribution(np.array(logits), Sampling())
    kept = np.flatnonzero(distribution(np.array(logits), Sampling(top_p=p)))
    assert whole[kept].sum() >= p - 1e-12
    largest = np.sort(whole)[::-1]
    assert largest[: len(kept) - 1].sum() < p + 1e-12  # one fewer, even the most probable, would not do
    if len(kept) < len(logits):
        assert whole[kept].min() >= np.delete(whole, kept).max()  # the most probable, not the least


def test_top_p_and_top_k_keep_the_most_probable_tokens():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    np.testing.assert_allclose(distribution(logits, Sampling(top_p=0.6)), [0, 2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(distribution(logits, Sampling(top_k=2)), [0, 2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(distribution(logits, Sampling(top_p=0.001)), [0, 1, 0, 0])


@given(logits=logits_lists, sampling=samplings)
def test_temperature_0_takes_the_most_probable_token_and_of_equals_the_lowest_id(logits, sampling):
    greedy = Sampling(0.0, sampling.top_k, sampling.top_p)
    found = distribution(np.array(logits), greedy)
    assert found[logits.index(max(logits))] == found.sum() == 1


@given(logits=logits_lists)
def test_a_tiny_temperature_leaves_only_the_most_probable_and_raises_no_warning(logits):
    found = distribution(np.array(logits), Sampling(temperature=5e-324))
    best = np.array(logits) == max(logits)
    np.testing.assert_array_equal(found, best / best.sum())


def test_the_repetition_penalty_makes_every_seen_token_less_likely_once():
    logits = np.array([1.0, -1.0, 1.0, -1.0])
    plain, seen = (
        distribution(logits, Sampling()),
        distribution(logits, Sampling(repetition_penalty=2), [0, 1, 1]),
    )
    assert seen[0] < plain[0] and seen[1] < plain[1]
    assert seen[0] / seen[2] == pytest.approx(math.exp(0.5 - 1))
    assert seen[1] / seen[3] == pytest.approx(math.exp(-2 + 1))
    assert distribution(logits, Sampling(0.0, repetition_penalty=2), [0])[2] == 1


@given(logits=logits_lists, sampling=samplings, u=unit)
def test_what_is_drawn_is_where_the_cumulative_probability_passes_u(logits, sampling, u):
    probabilities = distribution(np.array(logits), sampling)
    token = draw_of(probabilities, u)
    assert probabilities[token] > 0
    assert probabilities[:token].sum() <= u + 1e-9
    assert u <= probabilities[: token + 1].sum() + 1e-9


def test_draws_are_as_frequent_as_their_probabilities():
    probabilities = distribution(np.array([0.0, 1.0, -1.0, 2.0, 0.5]), Sampling(top_k=4))
    n = 4000
    drawn = [draw_of(probabilities, generator(1, "sample", i).random()) for i in range(n)]
    counts = np.bincount(drawn, minlength=5)
    assert counts[2] == 0
    assert np.abs(counts / n - probabilities).max() < 4 * 0.5 / math.sqrt(n)


def test_every_token_is_drawn_by_the_u_from_its_lower_bound_up_to_its_upper():
    quarters = np.array([0.25, 0.0, 0.5, 0.25])
    assert [draw_of(quarters, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75)] == [0, 0, 2, 2, 3]


def test_the_last_token_is_drawn_when_rounding_carries_u_past_all():
    assert draw_of(np.array([0.1] * 10 + [0.0]), math.nextafter(1, 0)) == 9


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(0.7, 5, 0.9, 1.2)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_raise(bad, sampling):
    with pytest.raises(SamplingError, match="expected a finite number"):
        distribution(np.array([0.0, bad, 1.0]), sampling)
    with pytest.raises(SamplingError, match="every token is forbidden"):
        distribution(np.full(3, -np.inf), sampling)


@given(logits=logits_lists.filter(lambda some: len(some) > 1), sampling=samplings)
def test_a_logit_of_minus_infinity_forbids_its_token(logits, sampling):
    found = distribution(np.array([-np.inf, *logits[1:]]), sampling, seen={0})
    assert found[0] == 0 and found.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1},
        {"top_p": 0.0}, {"top_p": 1.01}, {"top_p": math.nan},
        {"repetition_penalty": 0.0}, {"repetition_penalty": -1.0}, {"repetition_penalty": math.nan},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_the_name_of_its_option(values):
    with pytest.raises(ConfigError, match="--" + next(iter(values)).replace("_", "-")):
        Sampling(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.5}, "--temperature: found -0.5, expected at least 0"),
        ({"top_k": -1}, "--top-k: found -1, expected at least 0"),
        ({"top_p": 0.0}, "--top-p: found 0.0, expected more than 0 and at most 1"),
        ({"top_p": 1.5}, "--top-p: found 1.5, expected more than 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty: found 0.0, expected more than 0"),
        ({"repetition_penalty": math.inf}, "--repetition-penalty: found inf, expected more than 0"),
    ],
)
def test_a_refusal_says_what_was_found_and_the_whole_range(values, message):
    with pytest.raises(ConfigError) as caught:
        Sampling(**values)
    assert str(caught.value) == message


def test_without_options_the_distribution_is_the_models():
    assert Sampling() == Sampling(temperature=1, top_k=0, top_p=1, repetition_penalty=1)
    assert Sampling(temperature=0) == GREEDY
