"""What the local-global term changes: CO- minus base method, all else being equal."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from robustbench_coss.analysis.comparison import difference_line
from robustbench_coss.analysis.configurations import SeedGroup, without_local_term
from robustbench_coss.analysis.pairing import mismatch


def gain_data(measurements: Iterable[SeedGroup]) -> pd.DataFrame:
    """Differences in headline shares: a line per CO- model with its base method, and metric.

    Columns: suite, model (the CO- one), base, metric, heading, value (CO- minus base, in [-1, 1]),
    low, high (95 %, over seeds and images, not corrected for their number), p, seeds (of the one
    with fewer), n, interval (its kind, "t" over seeds).
    """
    here, lines = list(measurements), []
    for m in here:
        alike = [o for o in here if (o.suite, o.protocol) == (m.suite, m.protocol)]
        base = without_local_term(m, alike)
        if base is None or mismatch([*m.records, *base.records]):
            continue
        theirs = {k.name for k in base.records[0].metrics}
        for metric in m.records[0].metrics:
            if metric.headline and metric.percent and metric.name in theirs:
                found = difference_line(m, base, metric)
                lines.append(
                    {
                        "suite": m.suite,
                        "model": m.label,
                        "base": base.label,
                        "metric": metric.name,
                        "heading": found["heading"],
                        "value": found["difference"],
                        **{key: found[key] for key in ("low", "high", "p", "n")},
                        "seeds": min(found["seeds_a"], found["seeds_b"]),
                        "interval": found["test"],
                    }
                )
    return pd.DataFrame(lines)
