"""What a verification found, line by line: facts, conditions measured again, several together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robustbench_coss.evaluations.submissions.agreement import ALPHA, Pair, Trial, corrected


@dataclass(frozen=True)
class Finding:
    """One line of a report."""

    ok: bool
    text: str


@dataclass(frozen=True)
class CellPairs:
    """A condition that was measured again: its columns by name, and how often both agree."""

    title: str
    pairs: dict[str, Pair]
    trials: dict[str, Trial]


@dataclass
class Report:
    """What was found in a bundle.

    Attributes:
        seed: the cells were drawn with.
        facts: what was checked beside outcomes.
        cells: what was measured again.
        together: trials of several cells at once.
        notes: what to know about the comparison.
    """

    seed: int
    facts: list[Finding] = field(default_factory=list)
    cells: list[CellPairs] = field(default_factory=list)
    together: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """Every line: facts, cells, cells together."""
        trials = [t for cell in self.cells for t in cell.trials.values()] + self.together
        passed = {id(t): min(p) >= ALPHA for t, p in zip(trials, corrected(trials), strict=True)}
        lines = list(self.facts)
        for cell in self.cells:
            sound = all(passed[id(t)] for t in cell.trials.values())
            inside = all(pair.inside for pair in cell.pairs.values())
            lines.append(Finding(sound and inside, _cell_line(cell)))
        for t in self.together:
            text = f"{t.about}: {t.differ} of {t.images} images differ"
            if t.differ:
                text += f", {t.higher} recorded higher and {t.lower} lower"
            lines.append(Finding(passed[id(t)], text))
        return lines

    @property
    def reproduced(self) -> bool:
        """Whether every line is in order."""
        return all(finding.ok for finding in self.findings())

    @property
    def exact(self) -> bool:
        """Whether every outcome measured again equals the recorded one, to the last bit."""
        return all(
            np.array_equal(p.recorded, p.again, equal_nan=p.recorded.dtype.kind == "f")
            for cell in self.cells
            for p in cell.pairs.values()
        )


def _cell_line(cell: CellPairs) -> str:
    main = "correct" if "correct" in cell.pairs else next(iter(cell.pairs))
    pair = cell.pairs[main]
    (low, high), again = pair.interval, float(np.mean(pair.again, dtype=np.float64))
    recorded = float(np.mean(pair.recorded, dtype=np.float64))
    if pair.recorded.dtype == bool:
        numbers = f"{100 * recorded:.1f} % ({100 * low:.1f} … {100 * high:.1f}), "
        numbers += f"again {100 * again:.1f} %"
    else:
        numbers = f"{main} {recorded:.4g} ({low:.4g} … {high:.4g}), again {again:.4g}"
    equal = [f"{k} {t.images - t.differ}" for k, t in cell.trials.items()]
    return f"{cell.title}: {numbers}; equal: {', '.join(equal)} of {pair.again.size}"
