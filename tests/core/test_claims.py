"""`coss-bench claims`: hand-worked effects, error rates in simulations, verdicts, output."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, simulate
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats
from statsmodels.stats.multitest import multipletests
from typer.main import get_command
from typer.testing import CliRunner

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.configurations import SeedGroup, TestSet
from robustbench_coss.analysis.labels import Configuration
from robustbench_coss.claims.definitions import ATTACKS, CLAIMS, SINGLE
from robustbench_coss.claims.questions import Question, find_questions
from robustbench_coss.claims.verdicts import Outcome, Row, examine, judge, verdict_of
from robustbench_coss.cli import app
from robustbench_coss.errors import CossError
from robustbench_coss.records.record import Cell, Check, Metric, Record, find_records
from robustbench_coss.statistics.contrasts import contrast, rank_correlation
from robustbench_coss.statistics.paired_tests import seeds_by_images
from robustbench_coss.tables.cells import to_latex, to_markdown, to_rich
from robustbench_coss.tables.claims import layout, to_json

COMMITTED = ROOT / "results" / "fashion-mnist"
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def outcome_of(outcomes: Iterable[Outcome], claim: str) -> Outcome:
    (found,) = (o for o in outcomes if o.claim.key == claim)
    return found


def top1(
    shares: Sequence[float], method: str, crop: float | None = None, n: int = 200
) -> list[Record]:
    """Clean records of one configuration, a seed per share; whichever images are right."""
    training: dict[str, Any] = {"options": {"w_s": 0.3} if method.startswith("co-") else {}}
    if crop is not None:
        training["views"] = {"min_crop": crop}
    return [
        simulate.clean(
            share, n, method=method, seed=seed, name=f"{method}-{crop}-{seed}", training=training
        )
        for seed, share in enumerate(shares)
    ]


def with_options(results: Path) -> None:
    """Give simulated records the options that tell a CO- model from its base method."""
    for path, record in list(find_records(results)):
        co = record.model["method"].startswith("co-")
        record.model["training"]["options"] = {"w_s": 0.3} if co else {}
        path.unlink()
        simulate.save(results, record)


# ---- statistics ----


@given(st.integers(2, 4), st.integers(1, 4), st.integers(2, 12), st.integers(0, 10**6))
def test_a_contrast_of_two_configurations_is_their_difference(
    k_a: int, k_b: int, n: int, draw: int
) -> None:
    generator = np.random.default_rng(draw)
    a, b = generator.random((k_a, n)), generator.random((k_b, n))
    found, expected = contrast([a, b], [1, -1]), seeds_by_images(a, b)
    assert found.value == pytest.approx(expected.value, abs=1e-12)
    assert (found.low, found.high, found.p) == pytest.approx(
        (expected.low, expected.high, expected.p), rel=1e-9, abs=1e-9
    )


def test_a_contrast_of_constant_images_is_student_t_over_seeds() -> None:
    # Variances of seed means .02, 0 and, of the single run, their mean .01.
    runs = [np.tile(np.array(s)[:, None], (1, 50)) for s in ([0.8, 0.6], [0.5, 0.5], [0.4])]
    found = contrast(runs, [1, 0.5, -0.5])
    from_a, from_single = 0.02 / 2, 0.25 * 0.02 / 2  # of which b's half is 0
    freedom = 1.0  # everything comes from the two seeds of a
    half = stats.t.ppf(0.975, freedom) * math.sqrt(from_a + from_single)
    assert found.value == pytest.approx(0.7 + 0.25 - 0.2)
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half))


def test_intervals_of_a_contrast_of_four_hold_the_truth_in_95_of_100_cases() -> None:
    generator, held, cases = np.random.default_rng(5), 0, 600
    weights = [0.5, -0.5, 0.5, -0.5]
    for _ in range(cases):
        image = generator.standard_normal(100)  # hard for all models alike, but not equally so
        groups = [
            scale * image
            + 0.1 * generator.standard_normal((k, 1))
            + 0.5 * generator.standard_normal((k, 100))
            for k, scale in ((3, 1.3), (4, 1.0), (3, 1.2), (2, 1.0))
        ]
        found = contrast(groups, weights)
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / cases <= 0.985


def test_contrast_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        contrast([np.zeros((1, 5)), np.zeros((1, 5))], [1, -1])
    with pytest.raises(ValueError, match="same images"):
        contrast([np.zeros((2, 5)), np.zeros((2, 4))], [1, -1])
    with pytest.raises(ValueError, match="weight per group"):
        contrast([np.zeros((2, 5))], [1, -1])


def test_a_rank_correlation_has_the_interval_worked_by_hand() -> None:
    found = rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50])
    assert found.value == pytest.approx(1 - 6 * 4 / (5 * 24))  # 0.8
    z, half = 1.0986123, 1.9599640 * math.sqrt((1 + 0.64 / 2) / 2)
    assert (found.low, found.high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)))


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_agree_with_scipy(ties: bool) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.random((2, 6))
    if ties:
        x, y = np.round(x * 2), np.round(y * 3)
    found = rank_correlation(x, y)
    rho = stats.spearmanr(x, y).statistic
    assert found.value == pytest.approx(rho)
    exact = stats.permutation_test(
        (x,), lambda x: stats.spearmanr(x, y).statistic, permutation_type="pairings"
    )
    assert found.p == pytest.approx(exact.pvalue)


def test_many_models_are_ordered_at_random_and_few_in_every_way() -> None:
    assert rank_correlation(range(4), range(4)).p == pytest.approx(2 / math.factorial(4))
    x = np.random.default_rng(0).random((2, 30))
    found = rank_correlation(*x)
    assert found == rank_correlation(*(v[::-1] for v in x))
    assert found.p == pytest.approx(stats.spearmanr(*x).pvalue, abs=0.02)
    assert rank_correlation(range(30), range(30)).p == pytest.approx(1 / 10_001)


@given(st.lists(st.integers(0, 9), min_size=4, max_size=8), st.randoms())
def test_a_rank_correlation_lies_in_its_interval_and_turns_with_the_sign(
    x: list[int], random: Any
) -> None:
    y = random.sample(range(20), len(x))
    found, back = rank_correlation(x, y), rank_correlation(x, [-v for v in y])
    if len(set(x)) == 1:
        assert math.isnan(found.value)
        assert math.isnan(found.p)
        return
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )
    assert back.p == pytest.approx(found.p)


def test_three_models_have_no_rank_correlation() -> None:
    with pytest.raises(ValueError, match="4 or more"):
        rank_correlation([1, 2, 3], [1, 2, 3])


# ---- error rates ----

RUNS = {("byol", 0.08): 5, ("co-byol", 0.08): 5, ("byol", 1.0): 3, ("co-byol", 1.0): 3}
IMAGES = 100
CONDITIONS = {  # suite -> (condition, group, level)
    "clean": [("clean", "", 0.0)],
    "corruption": [("clean", "", 0.0), ("gaussian_noise@1", "noise", 1.0)],
    "occlusion": [("random-zero@0.5", "random-zero", 0.5), ("noise@1", "noise", 1.0)],
    "adversarial": [("clean", "", 0.0), ("pgd-linf@1/255", "pgd-linf", 1.0)],
    "redundancy": [("k@1", "pooled", 0.06), ("similarity", "similarity", 1.0)],
}


class Study:
    """Measurements whose outcomes are drawn anew: seeds, images and both together vary."""

    def __init__(self) -> None:
        blank = np.ones(IMAGES)
        self.records: list[tuple[str, str, Record]] = []
        measurements = []
        for suite, conditions in CONDITIONS.items():
            for (method, crop), seeds in RUNS.items():
                configuration = f"{method} {crop}"
                records = []
                for seed in range(seeds):
                    training = {"views": {"min_crop": crop}, "options": {}}
                    cells = [Cell(c, g, level, {"correct": blank}) for c, g, level in conditions]
                    record = simulate.record(
                        cells,
                        [],
                        suite=suite,
                        method=method,
                        seed=seed,
                        name=f"{configuration} {seed}",
                        training=training,
                    )
                    records.append(record)
                    self.records.append((method, suite, record))
                measurements.append(
                    SeedGroup(
                        TestSet("parts", "parts", 10),
                        Configuration(configuration, configuration),
                        suite,
                        "",
                        "",
                        (*records,),
                    )
                )
        self.questions: list[tuple[str, Question]] = []
        for record in (r for _, suite, r in self.records if suite == "redundancy"):
            record.cells[1].outcomes["within"] = blank
        for claim in CLAIMS:
            found = find_questions(claim, measurements)
            assert not found.lacking
            # The pairs below means have a family of their own.
            self.questions += [(claim.key, q) for q in found.questions if q.decides]

    def draw(self, generator: np.random.Generator, gain: float) -> None:
        """New outcomes; CO- models are better by `gain` standard deviations of images."""
        difficulty = generator.standard_normal(IMAGES)
        for method, _, record in self.records:
            better = gain if method.startswith("co-") else 0.0
            for cell in record.cells:
                seed = 0.15 * generator.standard_normal()  # about 4 points of accuracy
                own = 0.7 * generator.standard_normal(IMAGES)
                latent: NDArray[np.float64] = 0.8 + better + seed - difficulty + own
                cell.outcomes["correct"] = latent > (0.5 if cell.group else 0.0)
                if cell.condition == "similarity":
                    cell.outcomes["within"] = 0.5 + 0.1 * latent

    def verdicts(self) -> dict[str, str]:
        rows = judge([q for _, q in self.questions])
        keyed = list(zip((key for key, _ in self.questions), rows, strict=True))
        return {c.key: verdict_of([r for key, r in keyed if key == c.key], True) for c in CLAIMS}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study()


def test_no_difference_is_declared_one_in_at_most_5_of_100_studies(study: Study) -> None:
    generator, studies = np.random.default_rng(11), 1000
    supported = decided = 0
    for _ in range(studies):
        study.draw(generator, 0.0)
        verdicts = set(study.verdicts().values())
        supported += "supported" in verdicts
        decided += bool(verdicts & {"supported", "not supported"})
    assert supported / studies <= 0.05
    assert decided / studies <= 0.05


@pytest.mark.parametrize(("gain", "verdict"), [(1.2, "supported"), (-1.2, "not supported")])
def test_large_effects_are_found_whichever_way_they_go(
    study: Study, gain: float, verdict: str
) -> None:
    generator, right = np.random.default_rng(12), []
    for _ in range(25):
        study.draw(generator, gain)
        found = study.verdicts()
        # The gain is the same at both crops, and four models are too few for a correlation.
        alike = [key for key in found if key not in ("large-crops", "redundancy-robustness")]
        right += [found[key] == verdict for key in alike]
        assert found["redundancy-robustness"] == "undecided"
    assert np.mean(right) > 0.9


# ---- hand-worked ----


def test_a_pair_is_compared_as_two_models_are(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.6, 0.62, 0.64), "byol"), *top1((0.7, 0.74), "co-byol"))
    found = outcome_of(examine(tmp_path), "clean")
    (row,) = found.rows
    line = compare(tmp_path, "co-byol", "byol").table.set_index("metric").loc["clean_top1"]
    assert row.effect == pytest.approx(0.72 - 0.62)
    assert (row.effect, row.low, row.high, row.p, row.test) == pytest.approx(
        (line["difference"], line["low"], line["high"], line["p"], line["test"])
    )
    assert row.p_holm == row.p  # the only test of this call
    assert found.verdict == row.verdict == "supported"


def test_the_mean_of_pairs_weighs_them_alike_and_decides(tmp_path: Path) -> None:
    simulate.save(
        tmp_path,
        *top1((0.60, 0.62, 0.61, 0.63), "byol"),
        *top1((0.70, 0.71, 0.72, 0.73), "co-byol"),
        *top1((0.50, 0.52), "dino"),
        *top1((0.46, 0.48), "co-dino"),
    )
    found = outcome_of(examine(tmp_path), "clean")
    *pairs, mean = found.rows
    assert [r.effect for r in pairs] == pytest.approx([0.1, -0.04])
    assert mean.effect == pytest.approx(0.03)
    assert [r.question.kind for r in found.rows] == ["pair", "pair", "pooled"]
    assert [r.question.decides for r in found.rows] == [False, False, True]
    assert mean.question.compared == "mean of 2 pairs"
    assert found.verdict == mean.verdict
    np.testing.assert_allclose(
        [r.p_holm for r in pairs], multipletests([r.p for r in pairs], method="holm")[1]
    )
    assert mean.p_holm == mean.p


def test_a_base_method_that_two_pairs_share_is_counted_once(tmp_path: Path) -> None:
    base, one, other = top1((0.6, 0.62), "byol"), *(top1((s, s), "co-byol") for s in (0.7, 0.8))
    for record in other:
        record.model["name"] += "-w"
        record.model["checkpoint_sha256"] = record.model["checkpoint_sha256"][::-1]
        record.model["training"]["options"] = {"w_s": 0.5}
    simulate.save(tmp_path, *base, *one, *other)
    mean = outcome_of(examine(tmp_path), "clean").rows[-1]
    columns = [
        np.stack([r.cells[0].outcomes["correct"].astype(float) for r in runs])
        for runs in (one, other, base)
    ]
    expected = contrast(columns, [0.5, 0.5, -1])
    assert len(mean.question.sources) == 3
    assert (mean.effect, mean.low, mean.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_training_crops_are_told_by_the_smallest_and_largest_that_both_have(tmp_path: Path) -> None:
    shares = {
        ("byol", 0.08): (0.70, 0.72),
        ("byol", 0.5): (0.1, 0.1),
        ("byol", 1.0): (0.50, 0.54),
        ("co-byol", 0.08): (0.68, 0.70),
        ("co-byol", 0.5): (0.9, 0.9),
        ("co-byol", 1.0): (0.60, 0.62),
        ("co-byol", 0.01): (0.2, 0.2),
    }
    for (method, crop), values in shares.items():
        simulate.save(tmp_path, *top1(values, method, crop))
    found = outcome_of(examine(tmp_path), "large-crops")
    (row,) = found.rows
    # CO- loses .69 - .61 = .08, the base method .71 - .52 = .19.
    assert row.effect == pytest.approx(0.19 - 0.08)
    assert row.question.compared.endswith("minimum crop 0.08 to 1")
    assert (row.test, row.question.unit) == ("t", "points")


def test_small_attacks_are_those_up_to_2_of_255_and_the_worst_case_goes_first() -> None:
    def cells(group: str) -> list[Cell]:
        return [
            Cell(f"{group}@{e:g}/255", group, e, {"correct": simulate.exactly(0.5, 10)})
            for e in (0.25, 1.0, 2.0, 4.0)
        ]

    record = simulate.record([*cells("pgd-linf"), *cells("fgsm")], [], suite="adversarial")
    found = ATTACKS.find(record)
    assert found is not None
    assert found.conditions == ("pgd-linf@0.25/255", "pgd-linf@1/255", "pgd-linf@2/255")
    record.cells += cells("worst-linf")
    worst = ATTACKS.find(record)
    assert worst is not None
    assert worst.conditions == ("worst-linf@0.25/255", "worst-linf@1/255", "worst-linf@2/255")
    assert ATTACKS.find(simulate.clean(0.5)) is None


def test_a_single_local_is_the_smallest_number_pooled() -> None:
    cells = [Cell(f"k@{k}", "pooled", k / 16, {"correct": np.ones(4, bool)}) for k in (8, 1, 2)]
    found = SINGLE.find(simulate.record(cells, [], suite="redundancy"))
    assert found is not None
    assert found.conditions == ("k@1",)


def test_redundancy_and_robustness_are_ranked_over_configurations(tmp_path: Path) -> None:
    within, noisy = (0.2, 0.4, 0.3, 0.6, 0.5), (0.3, 0.32, 0.4, 0.42, 0.48)
    cleans = (0.5, 0.5, 0.5, 0.5, 0.8)  # so that the last keeps 60 %, the fewest but one
    methods = ("byol", "dino", "mocov3", "simclr", "supervised")
    for method, cosine, share, clean in zip(methods, within, noisy, cleans, strict=True):
        for seed in (0, 1):
            alike = {"within": np.full(100, cosine + 0.01 * seed)}
            right = {
                "clean": ("", simulate.exactly(clean, 100)),
                "gaussian_noise@1": ("noise", simulate.exactly(share, 100)),
            }
            simulate.save(
                tmp_path,
                simulate.record(
                    [Cell("similarity", "similarity", 1.0, alike)],
                    [Metric("w", "W", "within", ("similarity",), "", False)],
                    suite="redundancy",
                    method=method,
                    seed=seed,
                ),
                simulate.record(
                    [Cell(c, g, 1.0, {"correct": column}) for c, (g, column) in right.items()],
                    [Metric("n", "N", "correct", ("gaussian_noise@1",))],
                    suite="corruption",
                    method=method,
                    seed=seed,
                ),
            )
    found = outcome_of(examine(tmp_path), "redundancy-robustness")
    (row,) = found.rows
    # Ranks of cosines 1 3 2 5 4, of what is kept (.6, .64, .8, .84, .6) 1.5 3 4 5 1.5.
    assert row.effect == pytest.approx(np.corrcoef([1, 3, 2, 5, 4], [1.5, 3, 4, 5, 1.5])[0, 1])
    assert (row.question.compared, row.question.unit) == ("5 configurations", "rho")
    assert found.lacking == ("no records of suite adversarial",)


# ---- verdicts ----


def test_single_runs_leave_a_claim_undecided_however_far_they_are_apart(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.2,), "byol"), *top1((0.9,), "co-byol"))
    found = outcome_of(outcomes := examine(tmp_path), "clean")
    (row,) = found.rows
    assert row.p < 1e-6
    assert row.low > 0.5
    assert math.isnan(row.p_holm)
    assert found.verdict == row.verdict == "undecided"
    assert any("second seed" in note for note in layout(outcomes)[0].notes)


def test_several_crops_with_single_runs_are_undecided_too(tmp_path: Path) -> None:
    for method, shares in {"byol": (0.9, 0.1), "co-byol": (0.9, 0.8)}.items():
        for crop, share in zip((0.08, 1.0), shares, strict=True):
            simulate.save(tmp_path, *top1((share,), method, crop))
    outcomes = examine(tmp_path)
    for claim in ("clean", "large-crops"):
        found = outcome_of(outcomes, claim)
        assert found.verdict == "undecided"
        assert found.rows[-1].effect == pytest.approx({"clean": 0.35, "large-crops": 0.7}[claim])
        assert not math.isnan(found.rows[-1].low)


def test_one_seed_beside_several_is_taken_to_vary_as_they_do(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.6, 0.61, 0.62), "byol"), *top1((0.9,), "co-byol"))
    outcomes = examine(tmp_path)
    assert outcome_of(outcomes, "clean").verdict == "supported"
    assert any("with one is taken to vary" in note for note in layout(outcomes)[0].notes)


def row(verdict: str, decides: bool = True) -> Row:
    question = Question("pair", "m", "c", "", "points", (), lambda: NotImplemented, decides)
    return Row(question, 0.1, 0.0, 0.2, 0.01, 0.02, verdict, "t")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "no records"),
        (["supported"], "supported"),
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["supported", "not supported"], "not supported"),
        (["undecided", "not supported"], "not supported"),
    ],
)
def test_all_that_decides_has_to_support_a_claim(verdicts: list[str], expected: str) -> None:
    assert verdict_of([row(v) for v in verdicts], True) == expected
    if verdicts:
        below = [row("not supported", decides=False), row("supported", decides=False)]
        assert verdict_of([*below, *map(row, verdicts)], True) == expected


def test_a_claim_of_which_a_part_was_not_measured_is_not_supported(tmp_path: Path) -> None:
    for method, share in {"byol": 0.2, "co-byol": 0.9}.items():
        for seed in range(3):
            column = simulate.exactly(share + seed / 100, 100)
            cells = [Cell("random-zero@0.5", "random-zero", 0.5, {"correct": column})]
            metric = Metric("occlusion_internal", "Occlusion", "correct", ("random-zero@0.5",))
            record = simulate.record(cells, [metric], suite="occlusion", method=method, seed=seed)
            simulate.save(tmp_path, record)
    with_options(tmp_path)
    found = outcome_of(examine(tmp_path), "internal-corruption")
    assert [r.verdict for r in found.rows] == ["supported"]
    assert found.verdict == "undecided"
    assert any("Internal noise top-1 not measured" in reason for reason in found.lacking)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    simulate.all_suites(results, ("byol", "co-byol", "dino", "co-dino", "simclr"), seeds=3, n=100)
    with_options(results)
    return results


def test_holm_is_over_all_that_decides_in_a_call(simulated: Path) -> None:
    rows = [row for o in examine(simulated) for row in o.rows]
    for decides in (True, False):
        family = [r for r in rows if r.question.decides is decides]
        assert len(family) > 6
        np.testing.assert_allclose(
            [r.p_holm for r in family], multipletests([r.p for r in family], method="holm")[1]
        )


def test_claims_without_records_name_commands_that_exist(tmp_path: Path) -> None:
    simulate.save(tmp_path, *top1((0.6, 0.7), "byol"))
    outcomes = examine(tmp_path)
    assert [o.verdict for o in outcomes] == ["no records"] * len(CLAIMS)
    for o in outcomes:
        assert o.rows == ()
        commands = re.findall(r"`coss-bench ([^`]+)`", " ".join(o.lacking))
        assert commands
        for words in map(str.split, commands):
            COMMANDS[words[0]].make_context(words[0], words[1:])
    assert "no records" in to_markdown("Claims", layout(outcomes))


def test_a_co_model_without_its_base_method_is_named(tmp_path: Path) -> None:
    other = top1((0.6, 0.7), "byol")
    for record in other:
        record.model["width"] = 0.5  # not all else equal
    simulate.save(tmp_path, *other, *top1((0.6, 0.7), "co-byol"))
    found = outcome_of(examine(tmp_path), "clean")
    assert found.verdict == "no records"
    assert "CO-BYOL · rf29_resnet18 ×0.25, clean: no records of its base method" in found.lacking[0]


def test_models_measured_on_other_images_are_not_compared(tmp_path: Path) -> None:
    ours, theirs = top1((0.6, 0.7), "byol"), top1((0.6, 0.7), "co-byol")
    for record in theirs:
        record.index = record.index + 1
    simulate.save(tmp_path, *ours, *theirs)
    found = outcome_of(examine(tmp_path), "clean")
    assert found.verdict == "no records"
    assert "the test images are not the same" in found.lacking[0]


def test_pairs_of_different_images_have_no_mean(tmp_path: Path) -> None:
    for method in ("byol", "co-byol", "dino", "co-dino"):
        records = top1((0.6, 0.7), method)
        for record in records:
            record.index = record.index + ("dino" in method)
        simulate.save(tmp_path, *records)
    found = outcome_of(examine(tmp_path), "clean")
    assert [r.question.decides for r in found.rows] == [True, True]
    assert "no mean over pairs" in found.lacking[0]


def test_test_sets_are_judged_apart_and_corrected_together(tmp_path: Path) -> None:
    for dataset in ("parts", "other"):
        for method, shares in {"byol": (0.5, 0.52, 0.54), "co-byol": (0.58, 0.6, 0.62)}.items():
            for seed, share in enumerate(shares):
                record = simulate.clean(share, method=method, seed=seed, dataset=dataset)
                record.model["training"]["options"] = {}
                simulate.save(tmp_path, record)
    outcomes = examine(tmp_path)
    assert len(outcomes) == 2 * len(CLAIMS)
    rows = [r for o in outcomes for r in o.rows]
    assert [r.p_holm for r in rows] == pytest.approx([2 * rows[0].p] * 2)
    assert [s.title for s in layout(outcomes)] == ["other, 32 px", "parts, 32 px"]


# ---- forms ----

ROW_KEYS = {
    "kind", "measure", "compared", "protocol", "decides", "effect", "unit", "low", "high", "test",
    "p", "p_holm", "verdict", "images", "sources", "untrained",
}  # fmt: skip


def test_the_json_has_a_stable_form_and_points_to_records(simulated: Path) -> None:
    content = json.loads(json.dumps(to_json(examine(simulated)), allow_nan=False))
    assert content.keys() == {"schema", "test_sets"}
    assert content["schema"] == 1
    (test_set,) = content["test_sets"]
    assert test_set.keys() == {"test_set", "controls", "claims"}
    assert [c["claim"] for c in test_set["claims"]] == [
        "clean", "noise-corruption", "internal-corruption", "small-attacks", "large-crops",
        "redundant-locals", "redundancy-robustness",
    ]  # fmt: skip
    rows = 0
    for claim in test_set["claims"]:
        assert claim.keys() == {"claim", "statement", "verdict", "rows", "lacking"}
        for row in claim["rows"]:
            rows += 1
            assert row.keys() == ROW_KEYS
            assert row["low"] <= row["effect"] <= row["high"]
            assert row["verdict"] in ("supported", "not supported", "undecided")
            for source in row["sources"]:
                assert source.keys() == {
                    "configuration", "role", "suite", "seeds", "doubts", "records"
                }  # fmt: skip
                assert len(source["records"]) == source["seeds"] == 3
                assert all((simulated / path).is_file() for path in source["records"])
    # Two pairs and their mean in seven measures, two correlations.
    assert rows == 7 * 3 + 2


def test_shares_are_in_points_and_cosines_are_not(simulated: Path) -> None:
    outcomes = examine(simulated)
    claims = to_json(outcomes)["test_sets"][0]["claims"]
    for o, shown in zip(outcomes, claims, strict=True):
        for row, line in zip(o.rows, shown["rows"], strict=True):
            factor = {"points": 100, "cosine": 1, "rho": 1}[line["unit"]]
            assert line["effect"] == pytest.approx(factor * row.effect)
    units = {line["unit"] for c in claims for line in c["rows"]}
    assert units == {"points", "cosine", "rho"}


def test_tables_show_every_row_and_say_which_records_they_rest_on(simulated: Path) -> None:
    outcomes = examine(simulated)
    (section,) = layout(outcomes)
    claims, evidence = section.blocks
    assert [r[0].text for r in claims.rows] == [c.statement for c in CLAIMS]
    assert [r[1].text for r in claims.rows] == [o.verdict for o in outcomes]
    assert len(evidence.rows) == sum(len(o.rows) for o in outcomes)
    cells = {h: [r[i] for r in evidence.rows] for i, h in enumerate(evidence.headings)}
    assert cells["Runs"][0].text == "3 + 3"
    assert cells["Runs"][2].text == "6 + 6"
    assert cells["Runs"][-1].text == "15"
    assert "100 test images" in section.caption
    (note,) = (n for n in section.notes if n.startswith("Records of CO-DINO"))
    folders, dataset, suites = note.split("records/")[1].split("/")
    assert dataset == "parts"
    for folder, suite in itertools.product(
        folders.strip("{}").split(","), suites.removesuffix(".json").strip("{}").split(",")
    ):
        assert (simulated / "records" / folder / dataset / f"{suite}.json").is_file()
    # One run of the simulated BYOL fails a check of its attacks.
    marked = [r[0].text for r in evidence.rows if any(cell.marked for cell in r)]
    assert marked
    assert all("Linf" in text for text in marked)
    assert any(n.startswith("† BYOL") for n in section.notes)


def test_names_are_escaped_in_markdown_and_latex(tmp_path: Path) -> None:
    records = [*top1((0.6, 0.7), "byol"), *top1((0.6, 0.8), "co-byol")]
    for record in records:
        record.model["arch"] = "a|b_{%}<i>"
    records[0].checks.append(Check("50% & more_", False, "$x$"))
    simulate.save(tmp_path, *records)
    sections = layout(examine(tmp_path))
    markdown, latex = to_markdown("Claims", sections), to_latex("claims", sections)
    assert r"a\|b\_{%}&lt;i&gt;" in markdown
    assert r"a\textbar{}b\_\{\%\}\textless{}i\textgreater{}" in latex
    assert r"50\% \& more\_ (1 of 2 seeds): \$x\$" in latex
    assert "<i>" not in markdown + latex


@pytest.mark.parametrize("ending", ["md", "tex", "json"])
def test_the_command_writes_what_is_asked_for(simulated: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"claims.{ending}"
    call = ["claims", "--results", str(simulated)]
    written = CliRunner().invoke(app, [*call, "--out", str(out)])
    assert written.exit_code == 0, written.output
    assert written.output.split() == ["wrote", *str(out).split()]
    printed = CliRunner().invoke(app, [*call, "--format", ending])
    assert printed.output == out.read_text()
    start = {"md": "# Claims of the CO-SSL paper", "tex": "% Needs", "json": "{"}[ending]
    assert printed.output.startswith(start)
    assert str(simulated) not in printed.output


def test_the_command_shows_tables_and_refuses_other_files(simulated: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["claims", "--results", str(simulated)])
    assert shown.exit_code == 0, shown.output
    assert "Verdict" in shown.output
    refused = CliRunner().invoke(app, ["claims", "--out", str(tmp_path / "claims.pdf")])
    assert isinstance(refused.exception, CossError)
    assert "end it in .md, .tex or .json" in str(refused.exception)
    nothing = CliRunner().invoke(app, ["claims", "--results", str(tmp_path)])
    assert isinstance(nothing.exception, CossError)


def test_the_committed_records_are_judged_as_they_compare() -> None:
    outcomes = examine(COMMITTED)
    rows = {r.question.compared: r for r in outcome_of(outcomes, "clean").rows}
    for co in ("CO-BYOL", "CO-SimCLR"):
        (label,) = (c for c in rows if c.startswith(co))
        table = compare(COMMITTED, co, co.removeprefix("CO-"), ["clean"]).table
        line = table.set_index("metric").loc["clean_top1"]
        assert rows[label].effect == pytest.approx(line["difference"])
        assert rows[label].p == pytest.approx(line["p"])
    effects = [r.effect for r in rows.values() if r.question.kind == "pair"]
    assert rows["mean of 2 pairs"].effect == pytest.approx(np.mean(effects))
    console = Console(file=io.StringIO(), width=80)
    console.print(to_rich(layout(outcomes)))
    assert all(len(line) <= 80 for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
