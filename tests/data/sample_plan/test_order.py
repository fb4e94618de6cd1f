from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cosmos_data.sample_plan.order import Alternation, IndexPlan

WEIGHTS = st.lists(st.fractions(min_value=0, max_value=5, max_denominator=20), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS.filter(any), start=st.integers(0, 10**9))
def test_turns_are_counted_without_going_through_them(weights, start):
    """From any place on, each thing's turns go on where its count says."""
    alternation = Alternation(weights)
    counts = {}
    for n in range(start, start + 60):
        which, before = alternation.turn(n)
        assert weights[which] > 0
        assert before == counts.get(which, before)
        counts[which] = before + 1


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS.filter(any), num_turns=st.integers(1, 300))
def test_shares_are_kept_all_along(weights, num_turns):
    alternation = Alternation(weights)
    counts = [0] * len(weights)
    for n in range(num_turns):
        counts[alternation.turn(n)[0]] += 1
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - num_turns * weight / sum(weights)) < len(weights)


def test_two_equal_things_take_turns():
    alternation = Alternation([Fraction(1, 2), Fraction(1, 2)])
    assert [alternation.turn(n)[0] for n in range(6)] == [1, 0, 1, 0, 1, 0]


def test_images_come_where_their_shares_sum_to_another_whole():
    for share, images in ((0, []), (Fraction(1, 4), [3, 7, 11]), (Fraction(3, 4), [1, 2, 3, 5, 6, 7, 9, 10, 11])):
        alternation = Alternation([Fraction(share), 1 - Fraction(share)])
        assert [n for n in range(12) if alternation.turn(n)[0] == 0] == images


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS.filter(any), n=st.integers(0, 10**12))
def test_a_turn_is_found_by_whose_it_is(weights, n):
    alternation = Alternation(weights)
    assert alternation.nth_turn(*alternation.turn(n)) == n


@settings(max_examples=60, deadline=None)
@given(num_items=st.integers(1, 200), seed=st.integers(0, 2**63), epoch=st.integers(0, 2**40))
def test_an_epoch_visits_every_item_once(num_items, seed, epoch):
    plan = IndexPlan(num_items, "digest", seed)
    order = [plan.item(epoch * num_items + place) for place in range(num_items)]
    assert sorted(order) == list(range(num_items))
    following = [plan.item((epoch + 1) * num_items + place) for place in range(num_items)]
    assert num_items < 30 or following != order


def test_orders_are_drawn_about_equally_often():
    """All 24 of four items over 4800 epochs; and each item of 37 at each place."""
    plan = IndexPlan(4, "digest", 0)
    counts = Counter(tuple(plan.item(4 * epoch + place) for place in range(4)) for epoch in range(4800))
    assert len(counts) == 24 and max(abs(count - 200) for count in counts.values()) < 5 * 200**0.5
    plan = IndexPlan(37, "digest", 1)
    order = np.array([[plan.item(37 * epoch + place) for place in range(37)] for epoch in range(600)])
    for place in range(37):
        assert np.abs(np.bincount(order[:, place], minlength=37) - 600 / 37).max() < 6 * (600 / 37) ** 0.5


def test_neighbours_do_not_stay_neighbours():
    plan = IndexPlan(10_000, "digest", 2)
    order = np.array([plan.item(place) for place in range(10_000)])
    steps = np.abs(np.diff(order))
    assert (steps <= 10).mean() < 0.004, "of a random order 0.002 are"
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
