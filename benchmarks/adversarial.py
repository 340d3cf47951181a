"""How long the adversarial suite takes beside plain torchattacks, and whether verdicts agree.

    python benchmarks/adversarial.py --json adversarial.json

A narrow RF29-ResNet-18 is trained for a few epochs, so that there is something to break. Then, by
turns, rung by rung, the default attacks run over their default ladders on the same images: called
plainly, every image at every budget, and as the suite runs them. Both get the same random starts;
the rule that an image broken at one budget stays broken is applied to both. Processor time, on one
thread on the CPU. Not a test.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torchattacks
from torch import Tensor, nn

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.evaluations.attacks.draws import PerSampleDraws, streams
from robustbench_coss.evaluations.attacks.names import ATTACKS, L2
from robustbench_coss.evaluations.attacks.run import STEP_SHARE
from robustbench_coss.evaluations.protocol import Batch, Condition, Subject, correct
from robustbench_coss.evaluations.suites.adversarial import STANDARD, Adversarial
from robustbench_coss.machine.environment import device_name
from robustbench_coss.models.checkpoint import build_encoder
from robustbench_coss.seeds import permutation, seed_of

ARCH, WIDTH, SIZE = "rf29_resnet18", 1 / 8, 32
SEED = 0


def classifier(dataset: str, root: Path, images: int, epochs: int) -> Subject:
    """A classifier trained on the first images of a data set."""
    train = open_dataset(dataset, "train", size=SIZE, root=root)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        encoder = build_encoder(ARCH, size=SIZE, width=WIDTH)
        head = nn.Linear(encoder.dim, len(train.classes))
    net = nn.Sequential(encoder, head).train()
    pixels = train.images(range(images)).float() / 255
    labels = train.labels[:images]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(epochs):
        for rows in torch.split(permutation(images, "benchmark", epoch), 64):
            loss = nn.functional.cross_entropy(net(pixels[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return Subject(encoder, head)


def plain(subject: Subject, batch: Batch, condition: Condition, steps: int) -> Tensor:
    """[B] bool: right under the attack as torchattacks' users call it, image by image the same
    random starts as the suite's.
    """
    name = condition.group
    l2 = ATTACKS[name].norm == L2
    eps = condition.level if l2 else condition.level / 255
    step = STEP_SHARE * eps / steps
    own = [seed_of(SEED, Adversarial.name, condition.name, i) for i in batch.index]
    attack = {
        "fgsm": lambda: torchattacks.FGSM(subject, eps=eps),
        "mi-fgsm": lambda: torchattacks.MIFGSM(subject, eps=eps, alpha=step, steps=steps),
        "pgd-linf": lambda: torchattacks.PGD(subject, eps=eps, alpha=step, steps=steps),
        "pgd-l2": lambda: torchattacks.PGDL2(subject, eps=eps, alpha=step, steps=steps),
        "apgd-ce": lambda: torchattacks.APGD(subject, eps=eps, steps=steps),
    }[name]()
    if name == "apgd-ce":  # leaves out what is misclassified as it is
        right = correct(subject, batch.images, batch.labels).tolist()
        own = [seed for seed, kept in zip(own, right, strict=True) if kept]
    with PerSampleDraws(streams(own)) if ATTACKS[name].draws else nullcontext():
        found = attack(batch.images, batch.labels)
    return correct(subject, found, batch.labels)


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor seconds of a call, and what it gave."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--dataset", default="parts")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--train-images", type=int, default=3_000)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    root = arguments.data_root
    subject = classifier(arguments.dataset, root, arguments.train_images, arguments.epochs)
    test = open_dataset(arguments.dataset, "test", size=SIZE, root=root)
    index = list(range(arguments.images))
    images, labels = test.images(index).float() / 255, test.labels[: len(index)]
    clean = correct(subject, images, labels)

    suite = Adversarial()
    attacks: dict[str, dict[str, float]] = {}
    accuracy: dict[str, float] = {"clean": float(clean.float().mean())}
    for name in STANDARD:
        seconds = {"plain": 0.0, "suite": 0.0}
        differing, still = 0, clean
        earlier: dict[str, dict[str, Tensor]] = {}
        for condition in (c for c in suite.conditions(subject) if c.group == name):
            batch = Batch(images, labels, index, earlier)
            spent, right = timed(
                lambda c=condition, b=batch: plain(subject, b, c, suite.steps)  # type: ignore[misc]
            )
            seconds["plain"] += spent
            still = still & right
            spent, own = timed(
                lambda c=condition, b=batch: suite.measure(subject, b, c, SEED)["correct"]  # type: ignore[misc]
            )
            seconds["suite"] += spent
            earlier = {**earlier, condition.name: {"correct": own}}
            differing += int((own != still).sum())
            accuracy[condition.name] = float(own.float().mean())
        attacks[name] = {**seconds, "differing_verdicts": differing}
        print(
            f"{name:10s} plain {seconds['plain']:6.1f} s, suite {seconds['suite']:6.1f} s, "
            f"{differing} verdicts differ",
            flush=True,
        )
    total = {key: sum(a[key] for a in attacks.values()) for key in ("plain", "suite")}
    ratios = {
        "suite_over_plain_time": total["suite"] / total["plain"],
        "suite_over_plain_time_by_attack": {n: a["suite"] / a["plain"] for n, a in attacks.items()},
    }
    print(f"all: {ratios['suite_over_plain_time']:.2f} of the time of plain torchattacks")
    result = {
        "device": device_name(torch.device("cpu")),
        "torch": torch.__version__,
        "setting": {
            "arch": ARCH,
            "width": WIDTH,
            "size": SIZE,
            "threads": 1,
            "steps": suite.steps,
            **{k: v for k, v in vars(arguments).items() if k not in ("json", "data_root")},
        },
        "ratios": ratios,
        "differing_verdicts": sum(int(a["differing_verdicts"]) for a in attacks.values()),
        "attacks": attacks,
        "accuracy": accuracy,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
