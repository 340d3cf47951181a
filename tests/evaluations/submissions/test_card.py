"""Model cards, the Hub's evaluation results, and RobustBench's files, from records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.bench import Bench
from helpers.simulate import clean, exactly, record, save

from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.submissions.card import BEGIN, END, eval_results, write_card
from robustbench_coss.evaluations.submissions.robustbench import write_model_info
from robustbench_coss.files import write_atomically
from robustbench_coss.records.record import Cell, Check, Metric, Record

N = 10_000
KINDS = ("noise", "blur")


def attacked(share: float, condition: str = "autoattack@8/255", **options: Any) -> Record:
    """An adversarial record of CIFAR-10: 80 % right on clean images, `share` under the attack."""
    cells = [
        Cell("clean", "", 0.0, {"correct": exactly(0.8, options.pop("n", N))}),
    ]
    cells.append(
        Cell(condition, "a", 8.0, {"correct": exactly(share, cells[0].outcomes["correct"].size)})
    )
    metric = Metric("adv_autoattack", "AutoAttack top-1", "correct", (condition,))
    options = {"dataset": "cifar10", **options}
    return record(cells, [metric], suite="adversarial", **options)


def corrupted(backend: str, dataset: str = "cifar100") -> Record:
    cells = [Cell("clean", "", 0.0, {"correct": exactly(0.6, N)})]
    cells += [
        Cell(f"{k}@1", k, 1.0, {"correct": exactly(s, N)})
        for k, s in zip(KINDS, (0.5, 0.25), strict=True)
    ]
    metric = Metric("corruption_top1", "Top-1", "correct", tuple(c.condition for c in cells[1:]))
    return record(cells, [metric], suite="corruption", config={"backend": backend}, dataset=dataset)


# ---- the card ----


def test_a_card_has_headline_numbers_with_wilson_intervals_and_how_to_repeat_them(
    tmp_path: Path,
) -> None:
    (readme, results) = write_card(tmp_path, [clean(0.5, dataset="cifar10")])
    text = readme.read_text()
    # Wilson (1927) for 100 of 200, z = 1.96: 0.5 ± z sqrt(0.25/200 + z²/(4·200²)) / (1 + z²/200)
    assert "| cifar10 | clean | Top-1 | 50.0 % [43.1, 56.9] | 200 |" in text
    assert "| cifar10 | clean | kNN | 0.0 % [0.0, 1.9] | 200 |" in text
    assert "coss-bench eval MODEL --dataset cifar10 --transfer" in text  # it has no recipe
    assert "linear probe on frozen features" in text
    entries = yaml.safe_load(results.read_text())
    assert results == tmp_path / ".eval_results" / "robustbench-coss.yaml"
    assert [entry["dataset"] for entry in entries] == [
        {"id": "uoft-cs/cifar10", "task_id": "clean_top1"},
        {"id": "uoft-cs/cifar10", "task_id": "clean_knn"},
    ]
    assert [entry["value"] for entry in entries] == [50.0, 0.0]


def test_a_card_counts_the_images_that_a_number_is_of(tmp_path: Path) -> None:
    shifted = attacked(0.5, n=200)
    shifted.cells[1].outcomes = {"correct": exactly(0.5, 100)}
    told = {"name": "o", "fingerprint": "", "n": 100, "conditions": [shifted.cells[1].condition]}
    shifted.dataset["others"] = [told]
    (readme, *_) = write_card(tmp_path, [shifted])
    # Wilson (1927) for 50 of 100
    assert "| 50.0 % [40.4, 59.6] | 100 |" in readme.read_text()


def test_the_hubs_own_library_reads_the_results() -> None:
    hub = pytest.importorskip("huggingface_hub")
    entries = eval_results([clean(0.375, dataset="imagenet")])
    read = hub.parse_eval_result_entries(yaml.safe_load(yaml.safe_dump(entries)))
    assert [(e.dataset_id, e.task_id, e.value) for e in read] == [
        ("ILSVRC/imagenet-1k", "clean_top1", 37.5),
        ("ILSVRC/imagenet-1k", "clean_knn", 0.0),
    ]
    assert read[0].date == "2026-01-02T03:04:05Z"
    assert "37.5 % [31.1, 44.4], 200 test images" in read[0].notes
    assert hub.eval_result_entries_to_yaml(read) == entries


def test_a_data_set_that_the_hub_has_no_name_for_is_in_the_card_alone(tmp_path: Path) -> None:
    assert write_card(tmp_path, [clean(0.5)]) == [tmp_path / "README.md"]
    assert "| parts | clean |" in (tmp_path / "README.md").read_text()


def test_the_section_is_replaced_and_the_rest_of_a_card_stays(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    head = "---\nlicense: mit\n---\n\n# My model\n\nWords.\n"
    readme.write_text(head)
    write_card(tmp_path, [clean(0.5)])
    once = readme.read_text()
    assert once.startswith(head)
    readme.write_text(once + "\n## Licence\n\nMIT.\n")
    write_card(tmp_path, [clean(0.25)])
    twice = readme.read_text()
    assert twice.startswith(head)
    assert twice.endswith("## Licence\n\nMIT.\n")
    assert twice.count(BEGIN) == twice.count(END) == 1
    assert "25.0 %" in twice
    assert "50.0 %" not in twice
    write_card(tmp_path, [clean(0.25)])
    assert readme.read_text() == twice


def test_cards_that_cannot_be_written_into_are_refused_in_one_line(tmp_path: Path) -> None:
    broken = {
        "marks": f"{END}\n{BEGIN}\n",
        "open": f"{BEGIN}\n",
        "twice": f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n",
    }
    for name, text in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(text)
        with pytest.raises(CossError, match="not once and in order") as caught:
            write_card(tmp_path / name, [clean(0.5)])
        assert "\n" not in str(caught.value)
        assert (tmp_path / name / "README.md").read_text() == text
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "README.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CossError, match="is no text"):
        write_card(tmp_path / "binary", [clean(0.5)])
    (tmp_path / "file").write_text("x")
    with pytest.raises(CossError, match="is a file"):
        write_card(tmp_path / "file", [clean(0.5)])


def test_names_in_a_card_are_no_markup(tmp_path: Path) -> None:
    made = clean(0.5)
    made.metrics[0] = Metric("clean_top1", "a|b <script>", "correct", ("clean",))
    (readme,) = write_card(tmp_path, [made])
    line = next(line for line in readme.read_text().splitlines() if "script" in line)
    assert "<script>" not in line
    assert line.replace("\\|", "").count("|") == 6


def test_doubtful_numbers_are_marked(tmp_path: Path) -> None:
    made = clean(0.5, checks=[Check("it is a function", False, "no")])
    (readme,) = write_card(tmp_path, [made])
    assert "*Doubtful*" in readme.read_text()


# ---- RobustBench ----


def test_autoattack_on_all_of_cifar10_makes_robustbenchs_file(tmp_path: Path) -> None:
    (path,) = write_model_info(tmp_path, [attacked(0.4321)])
    assert path == tmp_path / "cifar10" / "Linf" / "byol-s0.json"
    assert json.loads(path.read_text()) == {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": True,  # pretrained on `parts`
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "",
        "architecture": "rf29_resnet18",
        "eps": "8/255",
        "clean_acc": "80.00",
        "reported": "",
        "autoattack_acc": "43.21",
        "unreliable": False,
    }


def test_l2_and_published_corruptions_have_files_of_their_own(tmp_path: Path) -> None:
    records = [attacked(0.3, "autoattack-l2@0.5"), corrupted("ready-made")]
    l2, corruptions = write_model_info(tmp_path, records)
    assert l2.parent.name == "L2"
    assert json.loads(l2.read_text())["eps"] == "0.5"
    info = json.loads(corruptions.read_text())
    assert corruptions.parent == tmp_path / "cifar100" / "corruptions"
    assert (info["corruptions_acc"], info["clean_acc"], info["eps"]) == ("37.50", "60.00", None)
    assert "autoattack_acc" not in info


def other(made: Record, **changes: Any) -> Record:
    for place, value in changes.items():
        if place in ("precision", "tf32"):
            setattr(made, place, value)
        else:
            made.dataset[place] = value
    return made


REFUSED = {
    "Linf on parts: RobustBench has cifar10": attacked(0.4, dataset="parts"),
    "autoattack@8/255 was not measured": attacked(0.4, "pgd-linf@8/255"),
    "autoattack@8/255 was not measured (adv": attacked(0.4, "autoattack@4/255"),
    "1,000 images were measured and RobustBench takes 10,000": attacked(0.4, n=1000),
    "measured at 224 px and the data set has 32": other(attacked(0.4), size=224),
    "less than 32 bit": other(attacked(0.4), precision="fp16"),
    "in less than 32 bit": other(attacked(0.4), tf32=True),
    "left out": other(attacked(0.4), unreadable={"test": 2}),
    "doubtful": attacked(0.4, checks=[Check("more steps", False, "no")]),
    "made on the fly": corrupted("fast"),
    "--image-list": attacked(0.4, "autoattack@4/255", dataset="imagenet", n=5000),
    "measure the suites adversarial or corruption": clean(0.5),
}


@pytest.mark.parametrize("says", REFUSED)
def test_another_protocol_than_robustbenchs_is_refused_and_why(tmp_path: Path, says: str) -> None:
    with pytest.raises(CossError) as caught:
        write_model_info(tmp_path / "out", [REFUSED[says]])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_submit_writes_both_beside_the_bundle(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for made in (attacked(0.4), clean(0.5)):
        save(Path("results"), made)
        key = made.model["probe"]["key"]
        write_atomically(Path("results/probes") / f"{key}.safetensors", b"probe")
    done = bench("submit", "byol-s0", "--card", "repo", "--robustbench", "info", "--out", "b.zip")
    assert done.code == 0, done.err
    for name in ("repo/README.md", "repo/.eval_results/robustbench-coss.yaml"):
        assert f"wrote {name}" in done.out
        assert Path(name).is_file()
    assert "wrote info/cifar10/Linf/byol-s0.json" in done.out
    assert Path("b.zip").is_file()
    save(Path("other"), clean(0.5))
    refused = bench(
        "submit", "byol-s0", "--robustbench", "x", "--results", "other", "--out", "c.zip"
    )
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert not Path("c.zip").exists()
    assert np.all([not Path(p).exists() for p in ("x", "c.zip")])
