"""Names of pictures in the order in which people count."""

from cosmos_data.readers.posed import natural_key


def test_numbers_count_by_their_value_and_other_digits_are_letters():
    assert sorted(["frame_10.png", "frame_9.png", "a.png"], key=natural_key) == ["a.png", "frame_9.png", "frame_10.png"]
    assert sorted(["1²10", "1²9", "1²²"], key=natural_key)[:2] == ["1²9", "1²10"]
