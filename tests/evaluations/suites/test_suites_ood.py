"""Telling other data sets apart: scores by their formulas, what is named, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from robustbench_coss.analysis.comparison import compare
from robustbench_coss.analysis.numbers import load_table
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.probes.linear import ProbeConfig
from robustbench_coss.evaluations.protocol import Subject
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run, suite_names
from robustbench_coss.evaluations.submissions.submit import submit
from robustbench_coss.evaluations.submissions.verify import Plan, verify
from robustbench_coss.evaluations.suites.ood import OOD
from robustbench_coss.evaluations.suites.other_sets import open_others
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import Record
from robustbench_coss.testing import pictures, tiny_subject

IMAGES, OTHERS = 60, 24


@pytest.fixture(scope="module", autouse=True)
def always_few(few_pictures: object) -> None:
    """No test here needs more."""


def paint(folder: Path, count: int, seed: int) -> list[str]:
    """Pictures of noise, in folders of folders; their paths below the parent of `folder`."""
    draw, names = np.random.default_rng(seed), []
    for i in range(count):
        path = folder / ("deep" if i % 2 else "deeper/still") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (40, 48, 3), np.uint8)).save(path)
        names.append(str(path.relative_to(folder.parent)))
    return names


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `noise`, and a list as OpenOOD's of pictures in a folder `more`."""
    folder = tmp_path_factory.mktemp("others")
    paint(folder / "noise", OTHERS, 1)
    names = paint(folder / "more", 10, 2)
    (folder / "lists").mkdir()
    (folder / "lists" / "test_more.txt").write_text("".join(f"{n} -1\n" for n in names))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
        path = tmp_path_factory.mktemp("runs") / f"tiny-{seed}"
        about = {"arch": "rf29_resnet18", "width": 1 / 16, "size": 32, "dataset": "parts"}
        training = {"method": ("byol", "dino")[seed], "training": {"seed": 0, "epochs": 0}}
        save_encoder(path / "encoder.safetensors", encoder, about | training)
        found.append(path)
    return found


@pytest.fixture(scope="module")
def results(runs: list[Path], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for run in runs:
        evaluate_run(run, request(folder, root))
    return folder


def request(results: Path, root: Path, **options: Any) -> Evaluation:
    given = {"near": "parts:0.5", "far": ["noise", "lists/test_more.txt"], "k": 5, "root": root}
    return Evaluation(
        ("ood",),
        results=results,
        device="cpu",
        limit=IMAGES,
        probe=ProbeConfig(),
        options={"ood": given | options},
    )


@pytest.fixture(scope="module")
def record(results: Path, root: Path, runs: list[Path]) -> Record:
    (found,) = evaluate_run(runs[0], request(results, root)).values()
    return found


def test_scores_are_those_of_the_formulas(subject: Subject) -> None:
    suite = OOD(near="x", k=3)
    batch, train = pictures(20), pictures(50, first=500)
    bank = subject.encoder(train.images).detach()
    suite._sets["near"]["x"] = None  # type: ignore[assignment]
    known = Subject(subject.encoder, subject.classifier, None, lambda count: (bank, train.labels))
    suite.prepare(known, pictures(1), 32)
    clean, other = (suite.conditions(subject)[i] for i in (0, 1))
    found = suite.measure(subject, batch, other, 0)
    assert set(found) == {"knn", "energy", "softmax"}
    features = subject.encoder(batch.images).detach().double().numpy()
    logits = subject(batch.images).detach().double().numpy()
    assert np.allclose(found["energy"], logsumexp(logits, axis=1), atol=1e-5)
    p = softmax(logits, axis=1).max(axis=1)
    assert np.allclose(found["softmax"], np.log(p) - np.log1p(-p), atol=1e-4)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, bank.double().numpy())]
    third = np.sort(cdist(*unit), axis=1)[:, 2]
    assert np.allclose(found["knn"], -third, atol=1e-4)
    assert "correct" in suite.measure(subject, batch, clean, 0)


def test_numbers_are_those_of_scikit_learn_on_the_recorded_scores(record: Record) -> None:
    columns = {cell.condition: cell.outcomes for cell in record.cells}
    assert {name: len(columns[name]["knn"]) for name in list(columns)[:4]} == {
        "clean": IMAGES,
        "near: parts:0.5": IMAGES,
        "far: noise": OTHERS,
        "far: test_more": 10,
    }
    for score in ("knn", "energy", "softmax"):
        found = {}
        for name in ("near: parts:0.5", "far: noise", "far: test_more"):
            own, other = columns["clean"][score], columns[name][score]
            labels = np.r_[np.ones(len(own)), np.zeros(len(other))]
            fprs, recalls, _ = roc_curve(labels, np.r_[own, other], drop_intermediate=False)
            found[name] = (
                roc_auc_score(labels, np.r_[own, other]),
                fprs[np.argmax(recalls >= 0.95)],
            )
        found["near"] = found.pop("near: parts:0.5")
        found["far"] = tuple(np.mean([found["far: noise"], found["far: test_more"]], axis=0))
        for name, (auroc, fpr) in found.items():
            derived = columns[f"{name} by {score}"]
            assert float(derived["ood_auroc"].mean()) == pytest.approx(auroc, abs=1e-5)
            assert float(derived["ood_fpr95"].mean()) == pytest.approx(fpr, abs=1e-5)


def test_tables_and_comparisons_take_them(results: Path, record: Record) -> None:
    table = load_table(results)
    lines = table[table["model"].str.contains("BYOL")].set_index("metric")
    assert list(lines.index[lines["headline"]]) == ["ood_near_auroc_knn", "ood_far_auroc_knn"]
    line = lines.loc["ood_far_fpr95_energy"]
    assert 0 <= line["low"] <= line["value"] <= line["high"] <= 1
    assert line["better"] == "lower"
    assert line["n"] == IMAGES + OTHERS + 10
    found = compare(results, "tiny-0", "tiny-1", everything=True).table.set_index("metric")
    line = found.loc["ood_noise_auroc_softmax"]
    assert line["difference"] == pytest.approx(line["a"] - line["b"], abs=1e-6)


def test_a_bundle_is_verified_where_the_sets_lie_below_the_data_root(
    runs: list[Path], results: Path, record: Record, root: Path, tmp_path: Path
) -> None:
    bundle, *_ = submit(str(runs[0]), results, tmp_path / "b.zip", True)
    report = verify(bundle, Plan(seed=0, cells=2, here=Evaluation(device="cpu", data_root=root)))
    assert report.reproduced, [f.text for f in report.findings() if not f.ok]


def test_another_set_or_k_is_another_protocol(root: Path) -> None:
    test = open_dataset("parts", "test", size=32)
    configs = []
    for options in ({"far": "noise"}, {"far": "more"}, {"far": "noise", "k": 7}, {"near": "noise"}):
        suite = OOD(root=root, **options)
        suite.configure(test)
        configs.append(suite.config())
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


def test_it_is_measured_only_where_it_is_asked_for() -> None:
    assert "ood" not in suite_names(["all"])
    assert suite_names(["all,ood"])[-1] == "ood"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "none is named; pass --set ood.near="),
        ({"near": "parts"}, "which are the test images"),
        ({"near": "cifra10"}, "did you mean cifar10"),
        ({"near": "nowhere/at/all"}, "name a data set, a folder or a list"),
        ({"far": "empty"}, "holds no pictures"),
        ({"far": "lists/blank.txt"}, "names no picture"),
        ({"far": "lists/wrong.txt"}, "names 2 pictures that are not in .*noise/a.png, b c.png"),
        ({"far": "lists/twice.txt"}, "noise/deep/1.png twice"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, Any], said: str, root: Path) -> None:
    (root / "empty").mkdir(exist_ok=True)
    for name, text in (
        ("blank", "# nothing\n\n"),
        ("wrong", "noise/a.png 0\nb c.png 3\n"),
        ("twice", "noise/deep/1.png 0\nnoise/deep/1.png 1\n"),
    ):
        (root / "lists" / f"{name}.txt").write_text(text)
    suite = OOD(root=root, **options)
    with pytest.raises(CossError, match=said) as caught:
        suite.configure(open_dataset("parts", "test", size=32))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"near": "a", "far": "b,a"}, "name a twice"),
        ({"near": 3}, "ood.near must be names"),
        ({"scores": "mahalanobis"}, "known: knn, energy, softmax"),
        ({"scores": []}, "must name some"),
        ({"k": 0}, "ood.k must be a whole number"),
        ({"bank": 1.5}, "ood.bank must be a whole number"),
        ({"root": 1}, "ood.root a folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CossError, match=said):
        OOD(**options)


def test_fewer_training_images_than_k_are_refused(subject: Subject) -> None:
    suite = OOD(near="x", k=9)
    suite._sets["near"]["x"] = None  # type: ignore[assignment]

    def few(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(8, subject.encoder.dim), torch.zeros(8, dtype=torch.int64)

    with pytest.raises(CossError, match=r"ood\.k is 9 and there are 8 training images"):
        suite.prepare(Subject(subject.encoder, subject.classifier, None, few), pictures(1), 32)


def test_lists_are_read_with_spaces_in_names_and_without_labels(root: Path) -> None:
    test = open_dataset("parts", "test", size=32)
    picture = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    (root / "two words").mkdir(exist_ok=True)
    picture.save(root / "two words" / "a b.png")
    (root / "plain.txt").write_text("two words/a b.png 12\nnoise/deep/1.png\n")
    opened = open_others("plain.txt", root, root, test)
    assert len(opened) == 2
    assert sorted(opened.path(i).name for i in (0, 1)) == ["1.png", "a b.png"]  # type: ignore[attr-defined]


def test_outputs_that_are_not_finite_leave_no_number() -> None:
    subject = tiny_subject()
    subject.classifier = nn.Linear(subject.encoder.dim, 6)
    with torch.no_grad():
        subject.classifier.bias.fill_(float("nan"))
    suite = OOD(near="x", scores="energy")
    suite._sets["near"]["x"] = None  # type: ignore[assignment]
    from robustbench_coss.records.record import Cell

    cells = [
        Cell(c.name, c.group, c.level, {k: v.numpy() for k, v in
             suite.measure(subject, pictures(6), c, 0).items()})
        for c in suite.conditions(subject)
    ]  # fmt: skip
    (derived,) = suite.derived(cells)
    assert np.isnan(derived.outcomes["ood_auroc"]).all()


def test_pictures_of_the_data_set_itself_are_refused_however_they_are_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        paint(tmp_path / part / "a", 4, 1)
        paint(tmp_path / part / "b", 4, 2)
    paint(tmp_path / "other", 4, 3)
    test = open_dataset("imagefolder", "test", size=32, root=tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "test" / "b")
    (tmp_path / "list.txt").write_text("other/deep/1.png 0\ntest/a/deep/1.png 0\n")
    for item, count in (("test", 8), ("test/a", 4), ("link", 4), ("list.txt", 1)):
        with pytest.raises(CossError, match=rf"names {item}, which holds {count} of the"):
            OOD(far=item, root=tmp_path).configure(test)
    OOD(far="other", root=tmp_path).configure(test)
    (tmp_path / "list.txt").write_text("other/deep/1.png\n./other/deep/1.png\n")
    with pytest.raises(CossError, match=r"names other/deep/1.png twice"):
        OOD(far="list.txt", root=tmp_path).configure(test)
