"""The next batch is prepared as late as it can be, and never so late that the device idles."""

import pytest

from service.engine.foresight import EARLY_S, Foresight


def test_nothing_is_waited_for_while_the_device_is_idle_or_unknown() -> None:
    foresight = Foresight()
    assert foresight.prepares_at(32) == 0.0
    foresight.launched(kind=32, now=10.0)
    assert foresight.prepares_at(1) < 10.0, "how long it takes is not known yet"


def test_it_ends_when_those_before_it_have_and_preparing_takes_its_time() -> None:
    foresight = Foresight()
    foresight.prepared(32, 0.00032)
    foresight.launched(32, now=10.0)
    assert foresight.landed(32, began=10.0, now=10.005) == pytest.approx(0.005)
    foresight.launched(32, now=11.0)
    assert foresight.prepares_at(10) == pytest.approx(11.005 - 10 * 0.00001 - EARLY_S)
    foresight.launched(32, now=11.004)
    assert foresight.prepares_at(0) == pytest.approx(11.010 - EARLY_S)
    foresight.landed(32, began=11.0, now=11.005)
    assert foresight.landed(32, began=11.004, now=11.010) == pytest.approx(0.005), (
        "its wait for the other is not its own"
    )
    assert foresight.prepares_at(32) == 0.0
