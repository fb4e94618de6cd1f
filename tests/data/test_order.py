from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from cosmos_data.order import Alternation

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
