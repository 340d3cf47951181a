"""Error consistency with observers whose trials lie on disk as model-vs-human's do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.bench import Bench
from helpers.command_line import complaint
from helpers.published_sets import put
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from robustbench_coss.analysis.trials import Observer, found_among, kappas, read_trials
from robustbench_coss.errors import CossError
from robustbench_coss.evaluations.running.request import Evaluation
from robustbench_coss.evaluations.running.runner import evaluate_run
from robustbench_coss.evaluations.trials import names_of
from robustbench_coss.models.checkpoint import build_encoder, save_encoder
from robustbench_coss.records.record import Record, find_records

CLASSES = ["cat", "dog", "oven"]
HEAD = "subj,Session,trial,rt,object_response,category,condition,imagename\n"


def test_pictures_are_found_by_name_whatever_says_the_trial() -> None:
    pictures = ["0003_cl_dnn_cr_oven_40_n04111531_14126.png", "airplane1-bicycle2.png", "cat9.png"]
    shown = [
        "0001_cl_s01_cr_oven_40_n04111531_14126.png",  # as people of `colour` were shown it
        "0044_str_s02_nan_airplane_00_airplane1-bicycle2.png",
        "airplane1-bicycle2.png",
        "airplane1-bicycle3.png",
        "0001_cl_s01_bw_oven_40_n04111531_14126.png",  # the same in black and white
    ]
    assert found_among(shown, pictures) == {shown[0]: 0, shown[1]: 1, shown[2]: 1}
    assert found_among(["a.png"], ["a.png", "a.png"]) == {}


def test_trials_are_read_with_either_spelling_of_session(tmp_path: Path) -> None:
    people = HEAD + (
        "subject-01,1,1,0.7,cat,cat,cr,a.png\n"
        "subject-01,1,2,NaN,na,dog,cr,b.png\n"
        "subject-01,1,3,0.7,dog,cat,cr,a.png\n"  # a second time
        "subject-02,1,1,0.7,oven,dog,bw,b.png\n"
    )
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x_subject-01_session_1.csv").write_text(people)
    net = "subj,session,trial,rt,object_response,category,condition,imagename\n"
    (tmp_path / "x_net.csv").write_text(net + "resnet50,1,1,NaN,cat,cat,NaN,a.png\n")
    found = {o.name: o.right for o in read_trials(tmp_path)}
    assert found == {
        "subject-01": {"cr": {"a.png": True, "b.png": False}},
        "subject-02": {"bw": {"b.png": False}},
        "resnet50": {"NaN": {"a.png": True}},
    }


def test_kappas_of_several_have_the_mean_of_each(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(60)]
    right = draw.random(60) < 0.6
    observers, expected = [], []
    for k, seen in enumerate((range(60), range(20, 60))):
        answers = {names[i]: bool(draw.random() < 0.7) for i in seen}
        observers.append(Observer(f"subject-0{k}", {"": answers}))
        rows = list(seen)
        expected.append(cohen_kappa_score(right[rows], list(answers.values())))
    found = kappas(right, observers, names)
    assert found.shape == (60,)
    assert found.mean() == pytest.approx(np.mean(expected), abs=1e-12)
    halves = Observer("m", {"a": dict.fromkeys(names[:30], True) | {names[0]: False}})
    halves.right["b"] = {n: i % 3 > 0 for i, n in enumerate(names[30:])}
    parts = [
        cohen_kappa_score(right[:30], list(halves.right["a"].values())),
        cohen_kappa_score(right[30:], list(halves.right["b"].values())),
    ]
    assert kappas(right, [halves], names).mean() == pytest.approx(np.mean(parts), abs=1e-12)
    assert kappas(right, [Observer("x", {"": {"other.png": True}})], names).size == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs measured on a set of ours, `toy`, whose pictures two people and a net have seen."""
    root = tmp_path_factory.mktemp("trials")
    for part in ("train", "val"):
        put(root / part, CLASSES, 8)
    draw, rows = np.random.default_rng(0), []
    for k, name in enumerate(CLASSES):
        (root / "toy" / name).mkdir(parents=True)
        for i in range(10):
            file = f"{name}{i}-{CLASSES[k - 1]}{i % 3}.png"
            pixels = draw.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / "toy" / name / file)
            rows += [
                (who, CLASSES[int(draw.integers(3))], name, f"{prefix}{file}")
                for who, prefix in (
                    ("subject-01", "0001_toy_s01_nan_"),
                    ("subject-02", "0001_toy_s02_nan_"),
                    ("resnet50", ""),
                )
            ]
    text = "".join(f"{who},1,1,0.5,{said},{true},NaN,{file}\n" for who, said, true, file in rows)
    (root / "trials.csv").write_text(HEAD + text)
    (root / "toy.yaml").write_text(
        "title: Toy\nabout: Noise.\ntrained_on: imagefolder\nfolders: [toy]\nlayout: folders\n"
        "pictures: 30\npaper: none\nsource: here\nlicence: none\nchecked: here\n"
        f"classes: [{', '.join(CLASSES)}]\n"
    )
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = build_encoder("rf29_resnet18", size=32, width=1 / 16)
        about = {"arch": "rf29_resnet18", "width": 1 / 16, "size": 32, "dataset": "imagefolder"}
        training = {"method": ("byol", "dino")[seed], "training": {"seed": 0, "epochs": 0}}
        save_encoder(root / f"run{seed}" / "encoder.safetensors", encoder, about | training)
        options = {"shift": {"sets": [str(root / "toy.yaml")]}}
        request = Evaluation("shift", data_root=root, results=root / "results", options=options)
        evaluate_run(root / f"run{seed}", request)
    return root


def of_run(study: Path, name: str) -> Record:
    return next(r for _, r in find_records(study / "results") if r.model["name"] == name)


def test_outcomes_are_those_of_the_pictures_named(study: Path) -> None:
    record = of_run(study, "run0")
    (entry,) = (e for e in record.dataset["others"] if e["name"] == "toy")
    names = names_of(record, entry, study)
    assert sorted(names) == sorted(p.name for p in (study / "toy").rglob("*.png"))
    assert names != sorted(names)  # in the order of measuring


def test_models_are_compared_by_how_they_err_beside_people(study: Path, bench: Bench) -> None:
    out = study / "c.csv"
    said = bench(
        *("compare", "run0", "run1", "--results", study / "results", "--data-root", study),
        *("--trials", study / "trials.csv", "--out", out, "--force"),
    )
    assert said.code == 0, said
    table = pd.read_csv(out).set_index("metric")
    trials = pd.read_csv(study / "trials.csv")
    for who in ("subject-01", "resnet50"):
        mine = trials[trials["subj"] == who]
        answers = dict(
            zip(
                mine["imagename"].str.split("_").str[-1],
                mine["object_response"] == mine["category"],
                strict=True,
            )
        )
        line = table.loc[f"toy: κ with {who}"]
        for side, run in (("a", "run0"), ("b", "run1")):
            record = of_run(study, run)
            (entry,) = (e for e in record.dataset["others"] if e["name"] == "toy")
            theirs = [answers[name] for name in names_of(record, entry, study)]
            expected = cohen_kappa_score(record.column("toy", "correct"), theirs)
            assert line[side] == pytest.approx(expected, abs=1e-9)
        assert line["n"] == 30
        assert line["difference"] == pytest.approx(line["a"] - line["b"], abs=1e-9)
    both = [table.loc[f"toy: κ with subject-0{k}", "a"] for k in (1, 2)]
    assert table.loc["toy: κ with 2 people", "a"] == pytest.approx(np.mean(both), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "lacks the columns subj, object_response, category, imagename"),
        (HEAD, "holds no trials"),
        (HEAD + "subject-01,1,1,0.5,cat,cat,,elsewhere.png\n", "such as elsewhere.png"),
    ],
)
def test_trials_that_say_nothing_are_one_line(
    study: Path, bench: Bench, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    refused = bench(
        *("compare", "run0", "run1", "--results", study / "results", "--data-root", study),
        *("--trials", tmp_path / "t.csv"),
    )
    assert said in complaint(refused)


def test_trials_or_pictures_that_are_not_there_are_one_line(
    study: Path, bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(CossError, match="there are no trials at"):
        read_trials(tmp_path / "nowhere")
    refused = bench(
        *("compare", "run0", "run1", "--results", study / "results", "--data-root", tmp_path),
        *("--trials", study / "trials.csv"),
    )
    assert str(tmp_path) in complaint(refused)
