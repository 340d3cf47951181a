"""What a unit of a linked suite is told belongs to the images of that unit."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.toy_suite import LinkedSuite

from robustbench_coss.evaluations.protocol import Condition
from robustbench_coss.evaluations.running.units import units
from robustbench_coss.records.record import Cell

FIRST, SECOND, OTHER = (
    Condition("noise@0", "noise", 0.0),
    Condition("noise@1", "noise", 1.0),
    Condition("blur@1", "blur", 1.0),
)


@pytest.mark.parametrize(("count", "shard"), [(10, 4), (10, 5), (3, 4), (9, 1)])
def test_each_shard_is_told_the_outcomes_of_its_own_images(count: int, shard: int) -> None:
    # The outcome of an image is its place, so that a place tells whose outcome it is.
    done = [Cell("noise@0", "noise", 0.0, {"value": np.arange(count, dtype=np.float32)})]
    found = units(LinkedSuite(), [SECOND], done, {"noise@1": count}, shard)
    told = [unit.known["noise@0"]["value"].tolist() for unit in found]
    assert told == [list(range(unit.start, unit.stop)) for unit in found]
    assert [place for places in told for place in places] == list(range(count))


def test_other_groups_are_not_told_of_it() -> None:
    done = [Cell("noise@0", "noise", 0.0, {"value": np.zeros(4, np.float32)})]
    (unit,) = units(LinkedSuite(), [OTHER], done, {"blur@1": 4}, 4)
    assert unit.known == {}
