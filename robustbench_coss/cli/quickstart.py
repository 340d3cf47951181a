"""`coss-bench quickstart`: the whole loop, small, from nothing to a leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_coss.cli.settings import not_the_root
from robustbench_coss.machine.terminal import Screen, say

METHODS = ("simclr", "co-simclr")
RECIPE = "quickstart"
TEST_IMAGES = 200
"""Test images per suite: enough for a first look, with the intervals to match."""


def quickstart(
    out: Annotated[
        Path, typer.Option(help="Folder for the two runs and their results.", metavar="FOLDER")
    ] = Path("runs/quickstart"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Pretrain SimCLR and CO-SimCLR on generated images, run all suites, print the leaderboard.

    Two controls are measured beside them: the pixels themselves, and the encoder before training.
    Needs no download and no GPU; takes a few minutes on two CPU cores. Run again, it does only
    what is missing. One seed of a tiny encoder: this shows how the tool works, not how the methods
    compare.

    Examples:

      coss-bench quickstart

      coss-bench quickstart --out /tmp/first-look --device cpu
    """
    from robustbench_coss.cli.evaluate import evaluate
    from robustbench_coss.cli.leaderboard import leaderboard
    from robustbench_coss.cli.plot import plot
    from robustbench_coss.pretrain.recipe import build_recipe, read_recipe
    from robustbench_coss.pretrain.train import pretrain

    not_the_root("--out", out)
    console = Screen(stderr=True)
    models = []
    for number, method in enumerate(METHODS, start=1):
        console.rule(f"{number}/4 pretrain {method}")
        run = out / method
        recipe = build_recipe(read_recipe(RECIPE) | {"method": method}, RECIPE)
        try:
            pretrain(recipe, run, device=device, resume=(run / "recipe.yaml").is_file())
        except KeyboardInterrupt:
            say("interrupted; run `coss-bench quickstart` again to continue", err=True)
            raise typer.Exit(130) from None
        models.append(str(run))
    untrained = f"control:untrained:{recipe.arch}:{recipe.width:g}"
    models += ["control:pixels", untrained + (":no-mlp" if recipe.mlp is False else "")]
    results = out / "results"
    console.rule("3/4 measure with every suite")
    evaluate(
        models,
        ["all"],
        dataset=recipe.dataset,
        results=results,
        limit=TEST_IMAGES,
        device=device,
    )
    console.rule("4/4 tables and figures")
    leaderboard(results)
    plot(results)
    say(f"records: {results / 'records'}")
