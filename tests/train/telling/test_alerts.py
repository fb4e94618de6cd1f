"""Alerts come when something begins to go wrong, once, and not of what is usual."""

from collections.abc import Iterable

import pytest

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.telling.alerts import DATA_WAIT, SLOW, SpeedAlerts


def alerts_of(step_secs: Iterable[float], shares: Iterable[float] | None = None, **settings: float) -> list[list[str]]:
    """Causes of what is alerted at each logged step."""
    secs = list(step_secs)
    watched = SpeedAlerts(TrackingConfig(**settings))  # pyright: ignore[reportArgumentType]
    waits = [0.0] * len(secs) if shares is None else list(shares)
    return [
        list(watched.check({"step_sec": sec, "data_wait_share": share})) for sec, share in zip(secs, waits, strict=True)
    ]


def test_a_drop_of_throughput_is_told_once_and_again_after_it_was_gone():
    told = alerts_of([1.0] * 8 + [4.0] * 4 + [1.0] * 12 + [4.0] * 3)
    assert [at for at, causes in enumerate(told) if causes == [SLOW]] == [10, 26]


@pytest.mark.parametrize(
    "step_secs",
    [[1.0] * 20 + [9.0] + [1.0] * 5, [1.0, 9.0] * 20, [30.0] + [1.0] * 20, [1.0, 1.0, 9.0] * 10, [1.0] * 9 + [1.9] * 9],
    ids=["one slow step", "images in turn with videos", "a slow first step", "a video in three", "less than the limit"],
)
def test_what_is_usual_is_no_alert(step_secs: list[float]):
    assert not any(alerts_of(step_secs))


def test_waiting_for_data():
    told = alerts_of([1.0] * 5, [0.4, 0.6, 0.7, 0.1, 0.6])
    assert told == [[], [DATA_WAIT], [], [], [DATA_WAIT]]


def test_no_alerts_where_none_are_wanted():
    assert not any(alerts_of([1.0] * 9 + [9.0] * 9, [0.9] * 18, alert_throughput_drop=0, alert_data_wait_share=0))
    with pytest.raises(ValueError, match=r"tracking.alert_throughput_drop=1.5 must be at least 0 and less than 1"):
        TrackingConfig(alert_throughput_drop=1.5)
