"""Controls stand apart in every table, and what does not beat them decides nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.simulate import clean, control, exactly, save

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import SeedGroup, load_measurements
from robustbench_coss.analysis.controls import NOT_TRAINED, standing, without_controls
from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.analysis.numbers import load_table, rank_models
from robustbench_coss.claims.verdicts import Outcome, examine
from robustbench_coss.encoders.base import parameters
from robustbench_coss.errors import CossError
from robustbench_coss.figures.pens import GREYS, pens_of
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.models.load import load_model
from robustbench_coss.records.record import Record
from robustbench_coss.statistics.paired_tests import mcnemar
from robustbench_coss.tables import cells, claims
from robustbench_coss.tables.comparison import layout as comparison_layout
from robustbench_coss.tables.leaderboard import to_markdown
from robustbench_coss.tables.paper import paper_table

OWN = {"arch": "rf29_resnet18", "width": 0.25}
LABEL = "control:untrained:rf29_resnet18:0.25"


def pair(base: float, co: float, seeds: int = 3) -> list[Record]:
    """Clean records of BYOL and CO-BYOL, a seed a hundredth better than the one before."""
    return runs({"byol": base, "co-byol": co}, seeds)


def runs(shares: dict[str, float], seeds: int) -> list[Record]:
    options = {method: {"w_s": 0.3} if method.startswith("co-") else {} for method in shares}
    return [
        clean(share + 0.01 * seed, method=method, seed=seed, training={"options": options[method]})
        for method, share in shares.items()
        for seed in range(seeds)
    ]


def controls(pixels: float, untrained: float, seeds: int = 2) -> list[Record]:
    return [control(pixels), *(control(untrained, seed=s, **OWN) for s in range(seeds))]


def of(measured: list[SeedGroup], label: str) -> list[SeedGroup]:
    return [m for m in measured if m.label.startswith(label)]


def verdict_on_clean(results: Path) -> Outcome:
    return next(o for o in examine(results) if o.claim.key == "clean")


def test_seeds_of_an_untrained_network_are_one_row(tmp_path: Path) -> None:
    save(tmp_path, *controls(0.5, 0.3, seeds=4))
    rows = {m.label: m for m in load_measurements(tmp_path)}
    assert {label: len(m.records) for label, m in rows.items()} == {"control:pixels": 1, LABEL: 4}
    assert {label: m.control for label, m in rows.items()} == {
        "control:pixels": "pixels",
        LABEL: "untrained",
    }


def test_controls_come_last_and_win_no_column(tmp_path: Path) -> None:
    save(tmp_path, *pair(0.4, 0.5), *controls(0.9, 0.3))
    table = load_table(tmp_path)
    models = list(dict.fromkeys(table["model"]))
    assert models[2:] == ["control:pixels", LABEL]  # though it is the best
    assert list(dict.fromkeys(table["control"])) == ["", "pixels", "untrained"]
    assert rank_models(load_measurements(tmp_path)) == models
    text = to_markdown(table)
    assert "*control:pixels*" in text
    assert not any("**" in line for line in text.splitlines() if "control:" in line)
    assert "**51.0**" in text  # of CO-BYOL, the best that learnt something
    assert "Rows set apart are controls" in text
    assert "\\midrule\ncontrol:\\allowbreak pixels &" in paper_table(tmp_path).to_latex()


def test_a_paper_table_sets_controls_apart_and_compares_with_them(tmp_path: Path) -> None:
    save(tmp_path, *pair(0.6, 0.7), *controls(0.4, 0.3))
    table = paper_table(tmp_path, against="control:pixels")
    lines = table.frame[table.frame["metric"] == "clean_top1"].set_index("model")
    assert lines["significant"].drop("control:pixels").drop(LABEL).all()
    assert "*control:pixels*" in table.to_markdown()


@pytest.mark.parametrize("more", range(4, 14))
def test_a_single_run_beats_a_control_by_mcnemars_test_at_1_percent(
    tmp_path: Path, more: int
) -> None:
    # Right where the control is, and on `more` images besides: `more` against none.
    save(tmp_path, clean(0.5 + more / 200), control(0.5), control(0.1, **OWN))
    measured = load_measurements(tmp_path)
    expected = () if mcnemar(more, 0) < 0.01 else ("control:pixels",)
    assert standing(of(measured, "BYOL"), measured).unbeaten == expected


def test_every_seed_has_to_beat_every_seed_of_a_control(tmp_path: Path) -> None:
    good = [clean(0.8, method="byol", seed=s) for s in range(4)]
    save(tmp_path, *good, *controls(0.5, 0.3))
    measured = load_measurements(tmp_path)
    assert standing(of(measured, "BYOL"), measured).unbeaten == ()
    save(tmp_path, clean(0.5, method="byol", seed=4))  # collapsed, the mean hardly moves
    measured = load_measurements(tmp_path)
    assert standing(of(measured, "BYOL"), measured).unbeaten == ("control:pixels",)
    save(tmp_path, clean(0.8, method="byol", seed=4), control(0.79, seed=9, **OWN))
    measured = load_measurements(tmp_path)
    assert standing(of(measured, "BYOL"), measured).unbeaten == (LABEL,)


def test_an_untrained_network_of_another_width_counts_where_there_is_no_other(
    tmp_path: Path,
) -> None:
    wide = control(0.9, arch="rf29_resnet18", width=1.0)
    save(tmp_path, clean(0.8), control(0.5), wide)
    measured = load_measurements(tmp_path)
    assert standing(of(measured, "BYOL"), measured).unbeaten == ("control:untrained:rf29_resnet18",)
    save(tmp_path, control(0.3, **OWN))
    measured = load_measurements(tmp_path)
    assert standing(of(measured, "BYOL"), measured).unbeaten == ()


@pytest.mark.parametrize("mlp", [True, False])
def test_an_untrained_network_counts_for_a_model_with_or_without_an_mlp_as_it_is_itself(
    tmp_path: Path, mlp: bool
) -> None:
    size = {m: parameters(build_encoder(**OWN, size=32, mlp=m)) for m in (True, False)}
    made = [clean(0.8), control(0.5), control(0.3, **OWN), control(0.9, seed=1, **OWN)]
    for record, has in zip(made[2:], (mlp, not mlp), strict=True):
        record.model |= {"parameters": size[has]} | ({} if has else {"mlp": False})
    made[0].model["parameters"] = size[mlp]
    save(tmp_path, *made)
    measured = load_measurements(tmp_path)
    assert standing(of(measured, "BYOL"), measured).unbeaten == ()
    made[0].model["parameters"] = size[not mlp]
    save(tmp_path, made[0])
    measured = load_measurements(tmp_path)
    assert len(standing(of(measured, "BYOL"), measured).unbeaten) == 1


def test_controls_on_other_images_say_nothing(tmp_path: Path) -> None:
    save(tmp_path, clean(0.8), control(0.9, n=100), control(0.9, dataset="mnist", **OWN))
    measured = load_measurements(tmp_path)
    mine = [m for m in of(measured, "BYOL") if m.test_set.label.startswith("parts")]
    assert standing(mine, measured).missing == ("pixels", "untrained")
    assert standing(mine, measured).unbeaten == ()


def test_without_controls_the_command_that_adds_them_is_named(tmp_path: Path) -> None:
    save(tmp_path, *pair(0.5, 0.7))
    wanted = "coss-bench eval control:pixels control:untrained:rf29_resnet18:0.25"
    (remark,) = [r for r in compare(tmp_path, "BYOL", "CO-BYOL").remarks if "control" in r]
    assert remark.startswith("No controls measured on parts, 32 px")
    assert wanted in remark
    outcome = verdict_on_clean(tmp_path)
    assert outcome.verdict == "supported"  # nothing says that they have not learnt
    assert wanted in outcome.controls
    assert wanted in claims.to_json([outcome])["test_sets"][0]["controls"]
    assert wanted in cells.to_markdown("Claims", claims.layout([outcome]))


def test_one_kind_of_control_asks_for_the_other(tmp_path: Path) -> None:
    save(tmp_path, *pair(0.5, 0.7), control(0.1))
    measured = load_measurements(tmp_path)
    said = without_controls(of(measured, "BYOL"), measured)
    assert f"`coss-bench eval {LABEL}`" in said
    assert "pixels" not in said


def test_no_control_is_asked_for_that_cannot_be_made(tmp_path: Path) -> None:
    model = clean(0.8)
    model.model |= {"arch": "timm:resnet18", "width": 1.0}
    save(tmp_path, model)
    measured = load_measurements(tmp_path)
    said = without_controls(measured, measured)
    assert "`coss-bench eval control:pixels`" in said
    with pytest.raises(CossError):
        load_model("control:untrained:timm:resnet18", size=32)
    save(tmp_path, control(0.1))
    measured = load_measurements(tmp_path)
    assert without_controls([m for m in measured if not m.control], measured) == ""


def test_a_pair_above_both_controls_is_judged_as_without_them(tmp_path: Path) -> None:
    save(tmp_path / "with", *pair(0.5, 0.7), *controls(0.3, 0.2))
    save(tmp_path / "without", *pair(0.5, 0.7))
    found, alone = (compare(tmp_path / f, "CO-BYOL", "BYOL") for f in ("with", "without"))
    assert found.table.equals(alone.table)
    assert set(found.table["untrained"]) == {""}
    assert not found.remarks
    rows = [verdict_on_clean(tmp_path / f).rows[0] for f in ("with", "without")]
    assert (rows[0].verdict, rows[0].p_holm) == (rows[1].verdict, rows[1].p_holm)
    assert verdict_on_clean(tmp_path / "with").controls == ""


@pytest.mark.parametrize(("pixels", "untrained"), [(0.6, 0.2), (0.2, 0.6)])
def test_a_pair_of_which_one_does_not_beat_both_controls_decides_nothing(
    tmp_path: Path, pixels: float, untrained: float
) -> None:
    save(tmp_path, *pair(0.5, 0.9), *controls(pixels, untrained))
    unbeaten = "control:pixels" if pixels > untrained else LABEL
    found = compare(tmp_path, "CO-BYOL", "BYOL")
    assert set(found.table["verdict"]) == {NOT_TRAINED}
    assert (found.table["p_holm"].iloc[0]) < 0.05  # whatever the effect
    (remark,) = [r for r in found.remarks if NOT_TRAINED in r]
    assert f"BYOL · rf29_resnet18 ×0.25 does not beat {unbeaten} on clean images" in remark
    assert cells.escape_markdown(remark) in cells.to_markdown("x", comparison_layout(found))
    outcome = verdict_on_clean(tmp_path)
    assert outcome.verdict == NOT_TRAINED
    assert [row.verdict for row in outcome.rows] == [NOT_TRAINED]
    table = paper_table(tmp_path, models=["BYOL", "CO-BYOL"], against="BYOL")
    assert not table.frame["significant"].any()
    assert f"{NOT_TRAINED}, not marked" in table.to_markdown()


def test_a_mean_over_pairs_leaves_out_those_that_have_not_learnt(tmp_path: Path) -> None:
    learnt = runs({"dino": 0.8, "co-dino": 0.85, "mocov3": 0.8, "co-mocov3": 0.9}, 3)
    save(tmp_path, *learnt, *pair(0.4, 0.9), *controls(0.6, 0.2))
    rows = verdict_on_clean(tmp_path).rows
    pooled = [row for row in rows if row.question.kind == "pooled"]
    assert [row.question.compared for row in pooled] == ["mean of 2 pairs"]
    assert pooled[0].effect == pytest.approx((0.05 + 0.1) / 2)
    verdicts = {row.question.compared.split(" · ")[0]: row for row in rows}
    assert verdicts["CO-BYOL"].verdict == NOT_TRAINED
    assert not verdicts["CO-BYOL"].question.decides


def test_comparing_with_a_control_itself_is_judged(tmp_path: Path) -> None:
    save(tmp_path, *pair(0.5, 0.9), *controls(0.7, 0.2))
    found = compare(tmp_path, "BYOL", "control:pixels")
    line = found.table[found.table["metric"] == "clean_top1"].iloc[0]
    assert (line["verdict"], line["untrained"]) == ("B better", "")
    assert compare(tmp_path, LABEL, "control:pixels").table["verdict"].iloc[0] == "B better"


def test_controls_are_grey_in_figures() -> None:
    given = ["control:pixels", LABEL, "c", "d"]
    pens, _ = pens_of([Configuration("", name, control=name) for name in given])
    assert list(pens) == given[: len(GREYS)]  # the best, of more than there are greys
    assert [pen.colour for pen in pens.values()] == [grey for grey, _, _ in GREYS]
    assert len({(pen.marker, str(pen.dash)) for pen in pens.values()}) == len(GREYS)
    assert "" not in {pen.marker for pen in pens.values()}  # dots have to be seen


def test_the_share_of_right_images_is_exact() -> None:
    assert np.mean(exactly(0.35, 200)) == 0.35
