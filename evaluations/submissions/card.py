"""Results for a model repository: a section of its card, and what the Hugging Face Hub reads.

The Hub shows `.eval_results/*.yaml` on the model's page and collects them where the data set is
registered there as a benchmark (https://huggingface.co/docs/hub/eval-results).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from robustbench_coss import __version__
from robustbench_coss.analysis.numbers import failed_checks, images_of, number, problems
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import write_atomically
from robustbench_coss.reading import MIB, read_bytes
from robustbench_coss.records.commands import RECIPE, commands_of, recipe_of
from robustbench_coss.records.record import Metric, Record
from robustbench_coss.tables.cells import escape_markdown, in_text

CARD = "README.md"
RESULTS = Path(".eval_results") / "robustbench-coss.yaml"
BEGIN, END = "<!-- robustbench-coss: begin -->", "<!-- robustbench-coss: end -->"
TITLE = "## Robustness"
HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
    "mnist": "ylecun/mnist",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
}
"""What the Hub calls data sets of this tool."""


def write_card(folder: Path, records: Sequence[Record]) -> list[Path]:
    """Write the results of one run into the folder of a model repository.

    The section of `README.md` is replaced where it is there, else put at the end; the rest stays.

    Args:
        folder: made if it is not there.
        records: all of one run.

    Returns:
        The files written: `README.md`, and `.eval_results/robustbench-coss.yaml` if any of the data
        sets has a name on the Hub.

    Raises:
        CossError: the folder is a file or cannot be written, or a `README.md` that cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        raise CossError(f"{folder} is a file; pass the folder of a model repository as --card")
    path = folder / CARD
    before = _text(path)
    write_atomically(path, _placed(before, section(records), path))
    written = [path]
    entries = eval_results(records)
    if entries:
        target = folder / RESULTS
        write_atomically(target, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))
        written.append(target)
    return written


def section(records: Sequence[Record]) -> str:
    """The section in Markdown: headline numbers with intervals, and how they are measured again."""
    rows = [_row(record, metric) for record in _ordered(records) for metric in _shown(record)]
    lines = [
        TITLE,
        "",
        f"Measured with robustbench-coss {__version__}; in brackets 95 % intervals.",
        "",
        "| data set | suite | metric | value | images |",
        "|---|---|---|---:|---:|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    if doubts := [text for text in (failed_checks(records), problems(records)) if text]:
        lines += [f"*Doubtful*: {escape_markdown('; '.join(doubts))}.", ""]
    model = records[0].model
    digest = model["checkpoint_sha256"]
    lines += [f"Classifier: {_classifier(model)}. Checkpoint: SHA-256 `{digest}`."]
    recipe = recipe_of(records[0])
    if recipe:
        lines += ["", f"Recipe (`{RECIPE}`):", "", "```yaml", recipe.rstrip(), "```"]
    lines += ["", "Measured again by:", "", "```sh", *commands_of(_ordered(records)), "```"]
    return "\n".join(lines)


def eval_results(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Headline numbers as entries of the Hub's `.eval_results` format; shares in percent."""
    entries = []
    for record in _ordered(records):
        name = HUB_DATASETS.get(record.dataset["name"])
        for metric in _shown(record) if name else []:
            found = number([record], metric.conditions, metric.column)
            scale = 100 if metric.percent else 1
            said = in_text(found.value, found.low, found.high, metric.percent)
            value = round(scale * found.value, 2 if metric.percent else 4)
            entries.append(
                {
                    "dataset": {"id": name, "task_id": metric.name},
                    "value": value,
                    "date": record.created,
                    "notes": f"{metric.label}: {said}, "
                    f"{images_of(record, metric.conditions):,} test images, "
                    f"{_classifier(record.model)}, "
                    f"robustbench-coss {__version__}",
                }
            )
    return entries


def _ordered(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.dataset["name"], record.suite))


def _shown(record: Record) -> list[Metric]:
    return [metric for metric in record.metrics if metric.headline]


def _row(record: Record, metric: Metric) -> list[str]:
    found = number([record], metric.conditions, metric.column)
    words = [record.dataset["name"], record.suite, metric.label]
    said = in_text(found.value, found.low, found.high, metric.percent)
    numbers = [said, f"{images_of(record, metric.conditions):,}"]
    return [escape_markdown(word) for word in (*words, *numbers)]


def _classifier(model: dict[str, Any]) -> str:
    return "the model's own" if "own_head" in model["probe"] else "linear probe on frozen features"


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        with explain_os_errors("read", path):
            return read_bytes(path, MIB).decode()
    except UnicodeDecodeError as error:
        raise CossError(f"{path} is no text; pass the folder of a model repository") from error


def _placed(before: str, text: str, path: Path) -> str:
    """A card with the section in it."""
    marked = f"{BEGIN}\n{text}\n{END}\n"
    begins, ends = before.count(BEGIN), before.count(END)
    if begins == ends == 0:
        return f"{before.rstrip()}\n\n{marked}" if before.strip() else marked
    first, last = before.find(BEGIN), before.find(END)
    if begins != 1 or ends != 1 or last < first:
        raise CossError(
            f"{path} has the marks of the section ({BEGIN}, {END}) not once and in order; remove "
            "them"
        )
    return before[:first] + marked + before[last + len(END) :].lstrip("\n")
