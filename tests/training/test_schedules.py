"""Learning rates at the points that define a schedule."""

import pytest

from kcv.config import OptimConfig


def _rates(schedule, *steps):
    return [float(schedule(step)) for step in steps]


def _build(kind: str, warmup: float = 2.0):
    from kcv.training.optimizer import build_schedule

    return build_schedule(OptimConfig(lr=0.1, schedule=kind, warmup_epochs=warmup), steps_per_epoch=10, epochs=10)


@pytest.mark.parametrize("kind", ["one_cycle", "cosine", "constant"])
def test_the_rise_is_linear_and_ends_at_the_peak(kind):
    assert _rates(_build(kind), 0, 10, 20) == pytest.approx([0.004, 0.052, 0.1])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("one_cycle", [0.05, 0.0]), ("cosine", [0.05, 0.0]), ("constant", [0.1, 0.1])],
)
def test_the_middle_and_the_end(kind, expected):
    assert _rates(_build(kind), 60, 100) == pytest.approx(expected, abs=1e-8)


def test_cosine_falls_slower_at_first_than_linear():
    assert _rates(_build("cosine"), 40)[0] == pytest.approx(0.0853553, rel=1e-5)
    assert _rates(_build("one_cycle"), 40)[0] == pytest.approx(0.075)


def test_without_warmup_it_starts_at_the_peak():
    assert _rates(_build("one_cycle", warmup=0.0), 0) == pytest.approx([0.1])


def test_it_never_goes_below_zero_after_the_last_step():
    assert _rates(_build("one_cycle"), 150) == pytest.approx([0.0])


def test_it_is_what_its_config_says():
    schedule = _build("cosine")
    again = type(schedule).from_config(schedule.get_config())
    assert _rates(again, 3, 33, 77) == _rates(schedule, 3, 33, 77)


def test_an_unknown_decay_is_refused():
    from kcv.training.optimizer import WarmupDecay

    with pytest.raises(ValueError, match="received 'steps'"):
        WarmupDecay(0.1, 10, 1, "steps")
