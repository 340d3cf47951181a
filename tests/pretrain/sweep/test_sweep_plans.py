"""The runs that a sweep names, and what is refused before the first one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT
from helpers.bench import Bench
from helpers.sweeps import write
from hypothesis import given
from hypothesis import strategies as st

from robustbench_coss import registry
from robustbench_coss.errors import CossError
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.pretrain import sweep as sweeps
from robustbench_coss.pretrain.recipe import build_recipe, dump_recipe, read_recipe
from robustbench_coss.pretrain.shipped import shipped_sweeps
from robustbench_coss.pretrain.sweep import Sweep, plan, read_sweep

pytestmark = pytest.mark.usefixtures("small_bank")


def planned(out: Path = Path("out"), **content: Any) -> list[str]:
    return [run.name for run in plan(Sweep.model_validate(content), out)]


# ---- what the runs are ----


def test_a_grid_is_the_product_of_its_values() -> None:
    grid = {"views.min_crop": [0.08, 0.2], "method": ["byol", "co-byol"], "seed": [0, 1]}
    assert planned(grid=grid) == [
        *("byol-min_crop0.08-s0", "byol-min_crop0.08-s1"),
        *("co-byol-min_crop0.08-s0", "co-byol-min_crop0.08-s1"),
        *("byol-min_crop0.2-s0", "byol-min_crop0.2-s1"),
        *("co-byol-min_crop0.2-s0", "co-byol-min_crop0.2-s1"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("options.w_s", 0.5, "co-byol-w_s0.5-s0"),
        ("options.grid", None, "co-byol-grid_null-s0"),
        ("options.grid", 2, "co-byol-grid2-s0"),
        ("arch", "resnet18", "co-byol-resnet18-s0"),
        ("views.min_crop", 1.0, "co-byol-min_crop1-s0"),
        ("optimizer.lr", 1e-05, "co-byol-lr1e-05-s0"),
        ("optimizer.name", "lars", "co-byol-name_lars-s0"),
        ("views.blur", [0.5, 0.0], "co-byol-blur_-0.5-0.0-s0"),
        ("epochs", 7, "co-byol-epochs7-s0"),
    ],
)
def test_names_tell_the_value_of_every_key_of_the_grid(key: str, value: Any, name: str) -> None:
    assert planned(grid={key: [value]}) == [name]


def test_further_grids_add_runs_and_repeat_none() -> None:
    assert planned(
        grid={"method": ["co-byol"], "options.w_s": [0.2]},
        also=[{"method": ["byol"]}, {"method": ["co-byol", "byol"], "options.ema": [0.9]}],
    ) == ["co-byol-w_s0.2-s0", "byol-s0", "co-byol-ema0.9-s0", "byol-ema0.9-s0"]
    assert planned(grid={"seed": [1, 1]}, also=[{"method": ["co-byol"], "seed": [1]}]) == [
        "co-byol-s1"
    ]
    # The default of the recipe, spelled out in one grid and left out in the other.
    assert planned(grid={"seed": [0]}, also=[{"epochs": [100, 50]}]) == [
        *("co-byol-s0", "co-byol-epochs50-s0")
    ]


def test_two_runs_of_one_name_are_an_error_that_names_what_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeps, "_checked", build_recipe)  # the method has no option of that name
    with pytest.raises(
        CossError, match=r"named co-byol-lr0\.5-s0 and differ in optimizer\.lr, opt"
    ):
        planned(grid={"optimizer.lr": [0.5]}, also=[{"options.lr": [0.5]}])


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
def test_every_run_has_its_own_name_and_the_recipe_of_that_point(
    crops: list[float], seeds: list[int]
) -> None:
    runs = plan(Sweep(grid={"views.min_crop": crops, "seed": seeds}), Path("out"))
    assert len({run.folder for run in runs}) == len(crops) * len(seeds)
    expected = [(crop, seed) for crop in crops for seed in seeds]
    assert [(run.recipe.views.min_crop, run.recipe.seed) for run in runs] == expected


def test_base_values_lie_over_the_recipe_and_under_the_grid() -> None:
    content = {
        "recipe": "quickstart",
        "base": {"epochs": 7, "options": {"temperature": 0.5}},
        "grid": {"views.min_crop": [0.3]},
    }
    (run,) = plan(Sweep.model_validate(content), Path("out"))
    expected = read_recipe("quickstart")
    expected |= {"epochs": 7, "options": expected["options"] | {"temperature": 0.5}}
    expected["views"] = expected["views"] | {"min_crop": 0.3}
    assert run.recipe == build_recipe(expected, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gird": {"seed": [0]}}, "unknown key 'gird', did you mean grid"),
        ({"recipe": "quickstart"}, "grid: Field required"),
        ({"grid": {}}, "grid: Dictionary should have at least 1 item"),
        ({"grid": {"seed": []}}, "grid.seed: List should have at least 1 item"),
        ({"grid": {"seed": 3}}, "grid.seed: Input should be a valid list, got 3"),
        ([1], "must be a mapping with the key `grid`"),
    ],
)
def test_a_faulty_sweep_is_refused_in_one_line(
    tmp_path: Path, bench: Bench, content: Any, message: str
) -> None:
    outcome = bench("sweep", write(tmp_path / "s.yaml", content))
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_files_that_are_no_sweeps_are_refused_in_one_line(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "s.yaml").write_text("grid: [")
    for name, message in (
        (tmp_path / "s.yaml", "is not valid YAML"),
        (tmp_path / "none.yaml", "the path does not exist"),
        ("corp", "no sweep is named 'corp'; shipped are "),
    ):
        outcome = bench("sweep", name)
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert message in outcome.err


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"method": ["byol"], "options.w_s": [0.5]}, "run with method=byol, options.w_s=0.5: "),
        ({"epochs": [4, 0]}, "run with epochs=0: epochs: "),
        ({"views.min_corp": [0.5]}, "unknown key 'views.min_corp', did you mean min_crop"),
        ({"arch": ["rf29_resnet81"]}, "unknown encoder 'rf29_resnet81'; did you mean"),
        ({"dataset": ["part"]}, "unknown dataset 'part'; did you mean parts"),
        ({"method": ["co-bylo"]}, "unknown method 'co-bylo'; did you mean"),
    ],
)
def test_every_run_is_checked_before_the_first_one_starts(
    tmp_path: Path, grid: dict[str, Any], message: str
) -> None:
    with pytest.raises(CossError) as error:
        planned(tmp_path, grid={"seed": [0]}, also=[grid])
    assert message in str(error.value)
    assert not any(tmp_path.iterdir())


# ---- shipped sweeps ----


@pytest.mark.parametrize("name", shipped_sweeps())
def test_shipped_sweeps_can_be_built(name: str) -> None:
    runs = plan(read_sweep(name), Path("out"))
    assert {run.recipe.dataset for run in runs} == {"fashion-mnist"}
    # Everything but the seed that sets two runs apart, built as training would.
    for run in {run.name.rpartition("-s")[0]: run for run in runs}.values():
        recipe = run.recipe
        mlp = {} if recipe.mlp is None else {"mlp": recipe.mlp}
        encoder = build_encoder(recipe.arch, size=32, width=recipe.width, **mlp)
        registry.load("method", recipe.method)(encoder, recipe)


def test_the_page_on_sweeps_states_what_each_shipped_one_costs() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    table = page.partition("## Shipped sweeps")[2].splitlines()
    for name in shipped_sweeps():
        runs = plan(read_sweep(name), Path("out"))
        assert all(run.recipe.limit for run in runs)
        passes = sum(run.recipe.epochs * (run.recipe.limit or 0) for run in runs)
        (row,) = [line for line in table if line.startswith(f"| `{name}` |")]
        assert row.endswith(f"| {len(runs)} | {passes:,} |")


def test_the_page_on_sweeps_describes_the_file_as_it_is_read() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    part = page.partition("## The file")[2].partition("## Names")[0]
    example = Sweep.model_validate(yaml.safe_load(part.split("```yaml\n")[1].split("```")[0]))
    assert len(plan(example, Path("out"))) == 2 * 2 * 3 + 1
    assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == set(Sweep.model_fields)


def test_a_run_goes_on_with_another_number_of_decoding_processes(tmp_path: Path) -> None:
    (run,) = plan(Sweep.model_validate({"grid": {"seed": [0]}}), tmp_path)
    run.folder.mkdir()
    begun = run.recipe.model_copy(update={"workers": run.recipe.workers + 1})
    (run.folder / "recipe.yaml").write_text(dump_recipe(begun))
    assert sweeps.state(run) == "interrupted"
    (run.folder / "recipe.yaml").write_text(dump_recipe(begun.model_copy(update={"epochs": 3})))
    with pytest.raises(CossError, match="another recipe: epochs differ"):
        sweeps.state(run)
