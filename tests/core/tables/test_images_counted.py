"""The counts beside a table are of the numbers that it shows."""

from __future__ import annotations

import pandas as pd

from robustbench_coss.tables.leaderboard import count_columns


def test_images_that_no_number_shown_rests_on_are_not_counted() -> None:
    part = pd.DataFrame(
        {
            "model": ["a", "a", "b"],
            "headline": [True, False, False],
            "seeds": [3, 3, 1],
            "n": [10_000, 5_000, 700],  # a rank of training images; a model without headlines
        }
    )
    shown = {name: [cell.text for cell in cells] for name, cells in count_columns(["a", "b"], part)}
    assert shown == {"Seeds": ["3", "1"], "Images": ["10,000", "700"]}
