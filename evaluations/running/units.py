"""The unit of work: one suite's block of conditions on one shard of the test images.

What a unit gives depends on nothing but itself, so units may run in any order, anywhere, and more
than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.protocol import Condition, Suite
from robustbench_coss.records.columns import Column
from robustbench_coss.records.record import Cell

Columns = dict[str, Column]


@dataclass(frozen=True)
class Unit:
    """One suite under some conditions on the test images `start` … `stop` of the fixed order.

    Attributes:
        known: for a linked suite, outcomes of these images under earlier conditions of the group.
    """

    suite: str
    conditions: tuple[Condition, ...]
    start: int
    stop: int
    known: Mapping[str, Columns] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a unit found under one condition: columns of `stop - start` outcomes.

    Attributes:
        seconds: the measurement took; of conditions measured together, each an equal share.
        nonfinite: outputs of the model with a NaN or infinite logit, attack steps included.
        device: it was measured on, in words.
        summary: what the suite says of the model as a whole.
    """

    condition: Condition
    columns: Columns
    seconds: float
    nonfinite: int
    device: str
    summary: dict[str, Any]


def units(
    suite: Suite,
    todo: Sequence[Condition],
    done: Sequence[Cell],
    counts: Mapping[str, int],
    shard: int | None = None,
) -> list[Unit]:
    """A suite's open conditions as units of up to `shard` of the images that each has in `counts`.

    A unit is one condition, or those that share work, or for a linked suite the open ones of a
    group. `shard` has to be a
    multiple of the batch size: batches are then the same ones however the images are divided, and
    so are the outcomes, to the last bit.
    """
    sharing = tuple(condition for condition in todo if suite.shares(condition))
    blocks = [sharing] if sharing else []
    blocks += [(condition,) for condition in todo if condition not in sharing]
    if suite.linked:
        groups = dict.fromkeys(condition.group for condition in todo)
        blocks = [tuple(c for c in todo if c.group == group) for group in groups]
    made = []
    for block in blocks:
        earlier = [cell for cell in done if suite.linked and cell.group == block[0].group]
        count = counts[block[0].name]
        for start in range(0, count, shard or count):
            stop = min(start + (shard or count), count)
            known = {
                cell.condition: {k: column[start:stop] for k, column in cell.outcomes.items()}
                for cell in earlier
            }
            made.append(Unit(suite.name, block, start, stop, known))
    return made


class Outcomes:
    """What a unit finds under one condition, batch by batch.

    A batch's outcomes are looked at once the next one's are under way, so that a GPU never waits.

    Attributes:
        nonfinite: outputs of the model with a NaN or infinite logit so far.
    """

    def __init__(self, suite: Suite, condition: Condition) -> None:
        self.suite, self.condition = suite, condition
        self.nonfinite: Tensor | int = 0
        self._waiting: list[tuple[dict[str, Tensor], int]] = []
        self._parts: dict[str, list[Column]] = {}

    def add(self, outcomes: dict[str, Tensor], size: int) -> None:
        """Take in those of a batch of so many images.

        Raises:
            CossError: they are not one per image, or others than before.
        """
        self._waiting.append((outcomes, size))
        if len(self._waiting) > 1:
            self._look_at(*self._waiting.pop(0))

    def columns(self) -> Columns:
        """All of them. Raises CossError as `add`."""
        while self._waiting:
            self._look_at(*self._waiting.pop(0))
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def _look_at(self, outcomes: dict[str, Tensor], size: int) -> None:
        first = not self._parts
        shapes = {name: tuple(column.shape) for name, column in outcomes.items()}
        if any(shape != (size,) for shape in shapes.values()) or not (
            outcomes and (first or shapes.keys() == self._parts.keys())
        ):
            raise CossError(
                f"suite {self.suite.name!r} gave columns {shapes} for {size} images under "
                f"{self.condition.name!r}; each must be [{size}] and all batches must give the "
                "same ones"
            )
        for name, column in outcomes.items():
            values = column.detach().cpu()
            kept = values if values.dtype in (torch.bool, torch.int8) else values.float()
            self._parts.setdefault(name, []).append(kept.numpy())
