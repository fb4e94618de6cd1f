"""What actions are normalised with goes with the weights, and refuses actions that it does not hold for."""

from dataclasses import replace

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action
from cosmos_train.conditions.action_statistics import ActionStatistics, Embodiments
from cosmos_train.conditions.config import ActionConditionConfig, ConditionConfig
from cosmos_train.config.errors import ConfigError

NAMES = ("x", "y", "gripper")


def action(embodiment: str = "bridge", *, seed: int = 0, num_steps: int = 500) -> Action:
    """x about 0.04 m a step, y always 0.5, the gripper 0 or 1."""
    generator = np.random.default_rng(seed)
    values_N3 = np.stack(
        [
            generator.standard_normal(num_steps) * 0.02 + 0.01,
            np.full(num_steps, 0.5),
            generator.integers(2, size=num_steps).astype(float),
        ],
        axis=1,
    )
    return Action(
        names=NAMES,
        units=("m", "m", "1"),
        rate_hz=5.0,
        frame_of_reference="previous end effector",
        values=tuple(values_N3.ravel().tolist()),
        embodiment=embodiment,
    )


def test_quantiles_become_minus_one_and_one():
    actions = [action(seed=0), action(seed=1)]
    statistics = ActionStatistics.of(actions, ActionConditionConfig())
    values_N3 = np.concatenate([one.values_ND() for one in actions])
    found = statistics.normalized(values_N3)
    np.testing.assert_allclose(np.quantile(found[:, [0, 2]], (0.01, 0.99), axis=0), [[-1, -1], [1, 1]], atol=1e-9)
    assert statistics.num_steps == 1000
    np.testing.assert_allclose(statistics.original(found), values_N3, atol=1e-12)


def test_the_other_normalisations():
    values_N3 = action().values_ND()
    standard = ActionStatistics.of([action()], ActionConditionConfig(action_normalize="standard")).normalized(values_N3)
    np.testing.assert_allclose(standard[:, [0, 2]].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(standard[:, [0, 2]].std(axis=0), 1, atol=1e-9)
    bridge = ActionConditionConfig(action_normalize="scale", action_scale=(20, 20, 1))
    scaled = ActionStatistics.of([action()], bridge).normalized(values_N3)
    np.testing.assert_allclose(scaled, values_N3 * (20, 20, 1))
    none = ActionStatistics.of([action()], ActionConditionConfig(action_normalize="none")).normalized(values_N3)
    np.testing.assert_array_equal(none, values_N3)


def test_a_dimension_that_never_changes_is_zero():
    for normalize in ("quantiles", "standard"):
        statistics = ActionStatistics.of([action()], ActionConditionConfig(action_normalize=normalize))
        assert not statistics.normalized(action().values_ND())[:, 1].any(), normalize


def test_embodiments_have_statistics_of_their_own_and_come_back_from_text():
    far = replace(action("droid"), values=tuple(5 * value for value in action().values))
    found = Embodiments.of([far, action()], ActionConditionConfig())
    assert list(found.statistics) == ["bridge", "droid"] and found.row("droid") == 1
    for one in (far, action()):
        normalized = found.fit(one).normalized(one.values_ND())
        np.testing.assert_allclose(np.quantile(normalized[:, 0], 0.99), 1, atol=1e-9)
    assert Embodiments.from_json(found.to_json(), "a file") == found
    ordered = Embodiments.of([far, action()], ConditionConfig(embodiments=("droid", "bridge")))
    assert ordered.row("droid") == 0 and Embodiments.from_json(ordered.to_json(), "a file").row("droid") == 0
    with pytest.raises(ConfigError, match=r"condition\.embodiments=\['droid'\]"):
        Embodiments.of([far, action()], ConditionConfig(embodiments=("droid",)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"embodiment": "droid"}, "'droid'.*trained on 'bridge'"),
        ({"rate_hz": 10.0}, "rate_hz 10.0 instead of 5.0"),
        ({"units": ("mm", "m", "1")}, "units mm, m, 1 instead of m, m, 1"),
        ({"names": ("y", "x", "gripper")}, "names y, x, gripper instead of x, y, gripper"),
        ({"frame_of_reference": "base"}, "frame_of_reference 'base' instead of 'previous end effector'"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_complaint_14_other_actions_than_trained_on_are_refused(changed: dict[str, object], said: str):
    found = Embodiments.of([action()], ActionConditionConfig())
    with pytest.raises(ConfigError, match=said):
        found.fit(replace(action(), **changed))  # pyright: ignore[reportArgumentType] fields of an action


def test_actions_of_one_embodiment_are_alike():
    with pytest.raises(DataError, match=r"rate_hz 5\.0 in one clip and 10\.0 in another"):
        Embodiments.of([action(), replace(action(), rate_hz=10.0)], ActionConditionConfig())


def test_factors_belong_to_the_dimensions():
    with pytest.raises(ConfigError, match=r"2 factors.*3 dimensions"):
        ActionStatistics.of([action()], ActionConditionConfig(action_normalize="scale", action_scale=(20, 1)))
    with pytest.raises(ConfigError, match="do not belong together"):
        ActionConditionConfig(action_scale=(20,))


def test_rows_of_the_weights_stay_and_new_embodiments_come_after_them():
    """Whatever the alphabet says, and also where no clip is of one."""
    known = Embodiments.of([action("bridge"), action("droid")], ConditionConfig())
    of_droid = Embodiments.of([action("droid", seed=1)], ConditionConfig(action_normalize="standard"), known)
    assert of_droid == known
    both = [action("aloha"), action("droid", seed=1)]
    grown = Embodiments.of(both, ConditionConfig(), known)
    assert list(grown.statistics) == ["bridge", "droid", "aloha"]
    assert grown.statistics["droid"] == known.statistics["droid"]
    assert Embodiments.of(both, ConditionConfig(embodiments=("bridge", "droid", "aloha")), known) == grown
    for names in (("aloha", "bridge", "droid"), ("droid", "aloha")):
        with pytest.raises(ConfigError, match=r"rows of \['bridge', 'droid'\], which stay.* 'droid', 'aloha'\]$"):
            Embodiments.of(both, ConditionConfig(embodiments=names), known)
    with pytest.raises(ConfigError, match=r"rate_hz 10\.0 instead of 5\.0"):
        Embodiments.of([replace(action("droid"), rate_hz=10.0)], ConditionConfig(), known)
