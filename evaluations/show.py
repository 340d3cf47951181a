"""What `coss-bench show` looks at: one image, disturbed in several ways, through one model.

A look, not a measurement: nothing here goes into records.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.datasets.geometry import USUAL, Geometry
from robustbench_coss.datasets.pictures import MOST_BYTES, as_tensor, decode
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError, did_you_mean
from robustbench_coss.evaluations.attacks.run import STEP_SHARE
from robustbench_coss.evaluations.corruptions.fast import corrupt
from robustbench_coss.evaluations.corruptions.fast.constants import default_constants
from robustbench_coss.evaluations.corruptions.fast.draws import sample_keys
from robustbench_coss.evaluations.probes.linear import DEFAULT, FORMAT, Probe, fold
from robustbench_coss.evaluations.protocol import Subject, top1
from robustbench_coss.evaluations.suites.similarity import cosine_within, each_local_global
from robustbench_coss.figures.one_image import Sheet, View
from robustbench_coss.models.checkpoint import Checkpoint
from robustbench_coss.models.containers import read_safetensors
from robustbench_coss.reading import parse_json, read_bytes

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog")
SEVERITY = 3
SMALLEST = 32  # px: below this the corruptions are not defined
BUDGETS = (2, 8)  # PGD in the L-infinity ball, epsilon in 1/255
STEPS = 10


@dataclass(frozen=True)
class Classifier:
    """What answers are made with.

    Attributes:
        module: [B, D] to [B, K].
        classes: names of the K classes.
        about: where it comes from, in words.
    """

    module: nn.Module
    classes: tuple[str, ...]
    about: str

    def class_of(self, text: str) -> int:
        """The class that a name or a number stands for.

        Raises:
            CossError: there is no such class; the nearest names are given.
        """
        if text in self.classes:
            return self.classes.index(text)
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        hint = did_you_mean(text, self.classes) or "give its name or its number"
        raise CossError(f"no class {text!r} among 0 … {len(self.classes) - 1}; {hint}")


def read_image(path: Path, size: int, geometry: Geometry = USUAL) -> Tensor:
    """A picture file as a model sees it: [1, 3, size, size] uint8.

    As in the evaluation of picture data sets, resized and cut as the model says; a picture of
    exactly size × size is taken as it is.

    Raises:
        CossError: there is no such file, or it is no picture (`datasets.pictures.decode`).
    """
    picture = decode(read_bytes(path, MOST_BYTES), str(path))
    if picture.size != (size, size):
        picture = geometry.cut(picture, size)
    return as_tensor(picture)[None]


def find_classifier(
    checkpoint: Checkpoint, dataset: str | None, *, results: Path, data_root: Path
) -> Classifier | None:
    """The classifier of a model: its own head, or a probe that `coss-bench eval` left, or None.

    Classes are known by their names where their data set is at hand, else by their numbers.

    Args:
        dataset: what the classes are of; only a probe trained on it is taken. None takes any.
        results: the folder whose `probes/` is searched.
        data_root: folder of the data sets.
    """
    size = int(checkpoint.metadata["size"])
    head = checkpoint.head
    if head is not None:
        names = _class_names(dataset, checkpoint.classes or 0, size, data_root)
        return Classifier(head, names, "the model's own head")
    probe = find_probe(results, checkpoint.sha256, checkpoint.encoder.dim, dataset)
    if probe is None:
        return None
    trained_on, count = str(probe.summary["dataset"]), probe.classifier.out_features
    kind, n = probe.summary["settings"]["kind"], probe.summary["n_train"]
    about = f"linear probe on {trained_on} ({kind}, {n:,} images)"
    return Classifier(probe.classifier, _class_names(trained_on, count, size, data_root), about)


def _class_names(dataset: str | None, count: int, size: int, data_root: Path) -> tuple[str, ...]:
    try:
        if dataset is not None:
            names = open_dataset(dataset, "test", size=size, root=data_root).classes
            if len(names) == count:
                return names
    except CossError:
        pass  # not on this machine: the numbers have to do
    return tuple(f"class {k}" for k in range(count))


def find_probe(
    results: Path, checkpoint_sha256: str, dim: int, dataset: str | None
) -> Probe | None:
    """A linear probe of an encoder that `coss-bench eval` left in a results folder, or None.

    Of several, one of the default kind, then the one trained on most images.

    Args:
        results: the folder whose `probes/` is searched.
        checkpoint_sha256: of the encoder's file.
        dim: features of the encoder.
        dataset: only probes trained on this data set; None takes any.
    """
    found = []
    for path in sorted((results / "probes").glob("*.safetensors")):
        try:
            header, tensors = read_safetensors(path)
            summary = parse_json(header.get("probe", "{}"))
            if (
                header.get("format") != FORMAT
                or summary["checkpoint_sha256"] != checkpoint_sha256
                or dataset not in (None, summary["dataset"])
            ):
                continue
            weight, bias = tensors["weight"], tensors["bias"]
            rank = (summary["settings"]["kind"] == DEFAULT, int(summary["n_train"]), path.stem)
            key = str(summary["key"])
        except (CossError, ValueError, KeyError, TypeError):
            continue  # damaged: `coss-bench eval` trains it again
        if weight.shape == (*bias.shape, dim):
            probe = fold(weight, bias, torch.zeros(dim), torch.ones(dim)).requires_grad_(False)
            found.append((rank, Probe(probe, key, summary)))
    return max(found, key=lambda item: item[0])[1] if found else None


def look(
    encoder: Encoder,
    image: Tensor,
    *,
    classifier: Classifier | None = None,
    label: int | None = None,
    explained: int | None = None,
    index: int = 0,
    title: str = "",
) -> Sheet:
    """An image and its disturbed versions, with answers, saliencies and maps of similarity.

    Args:
        encoder: frozen and in eval mode, on the device to compute on.
        image: [1, 3, S, S] uint8.
        classifier: gives the answers; without it answers are cosines of the global representation
            with the original's, saliency is that of its length, and there are no attacks.
        label: the right class, if it is known.
        explained: the class whose logit the saliency is of; None takes each version's answer.
        index: data set index of the image, which the draws of the corruptions are keyed by: the
            ones of the suite `corruption` with seed 0.

    Raises:
        CossError: the model's outputs are NaN or infinite.
    """
    original = image.to(encoder.mean.device).float().div(255)
    corruptions = corrupted(original, index)
    versions = {"original": original} | corruptions
    if classifier is not None:
        subject = Subject(encoder, classifier.module, len(classifier.classes))
        versions |= attacked(subject, original)
    images = torch.cat(list(versions.values()))
    local, whole = _represent(encoder, images)
    chosen = most_representative(local[:1])
    target: Tensor | None = None
    if classifier is None:
        sameness = F.cosine_similarity(whole, whole[:1], dim=1).tolist()
        answers = [(f"cosine {s:.3f}", "") for s in sameness]
        held: list[bool | None] = [None] * len(versions)
        saliency_of = "the length of the global representation"
        about = "the cosine of its global representation with the original's"
        subtitle = "no classifier: neither answers nor attacks"
    else:
        logits = subject.classify(whole)
        found = top1(logits)
        answers = _in_words(logits, found, classifier.classes, label)
        right = int(found[0]) if label is None else label
        held = [int(answer) == right for answer in found]
        if label is None:
            held[0] = None
        saliency_of = "the answer's logit"
        about = "the model's answer and its softmax"
        marks = "✓ same as original, ✗ other" if label is None else "✓ right, ✗ wrong"
        subtitle = f"answers: {classifier.about}; {marks}"
        target = found.clamp_min(0)
        if explained is not None:
            target = torch.full_like(found, explained)
            saliency_of = f"the logit of {classifier.classes[explained]}"
    maps = {
        "saliency": saliency(encoder, images, classifier.module if classifier else None, target),
        "local_global": local_to_global(encoder, local),
        "likeness": likeness(local, chosen),
    }
    if len(corruptions) == 0:
        subtitle += f"; no corruptions below {SMALLEST} px"
    single = local.shape[2] * local.shape[3] == 1
    within = [float("nan")] * len(images) if single else cosine_within(local).tolist()
    views = [
        View(
            title=name,
            image=images[i].cpu().numpy(),
            answer=answers[i][0],
            detail=answers[i][1],
            held=held[i],
            within=within[i],
            **{key: value[i].float().cpu().numpy() for key, value in maps.items()},
        )
        for i, name in enumerate(versions)
    ]
    return Sheet(title, subtitle, about, saliency_of, chosen, views)


def corrupted(image: Tensor, index: int) -> dict[str, Tensor]:
    """Corrupted versions of one image [1, 3, S, S] in [0, 1], by heading; none below 32 px."""
    size = image.shape[-1]
    if size < SMALLEST:
        return {}
    found = {}
    for name in CORRUPTIONS:
        keys = sample_keys([index], 0, "corruption", f"{name}@{SEVERITY}")
        words = f"{name.replace('_', ' ')}\nseverity {SEVERITY}"
        found[words] = corrupt(image, name, SEVERITY, keys, default_constants(size))
    return found


def attacked(subject: Subject, image: Tensor) -> dict[str, Tensor]:
    """Versions of one image that PGD drives away from the model's own answer, by heading.

    Without a random start, so that the picture is the same every time.
    """
    with torch.inference_mode():
        answer = top1(subject(image)).clamp_min(0).clone()
    found = {}
    for budget in BUDGETS:
        eps = budget / 255
        step = STEP_SHARE * eps / STEPS
        attack = torchattacks.PGD(subject, eps=eps, alpha=step, steps=STEPS, random_start=False)
        with torch.enable_grad():
            found[f"PGD\nε = {budget}/255"] = attack(image, answer.clone()).detach()
    return found


def saliency(
    encoder: Encoder, images: Tensor, classifier: nn.Module | None, target: Tensor | None
) -> Tensor:
    """Absolute derivative by each pixel, the largest of its three colours: [B, H, W].

    Of the logit of a class (Simonyan et al. 2014, arXiv 1312.6034), or without a classifier of the
    Euclidean length of the global representation.

    Args:
        images: [B, 3, H, W] in [0, 1].
        target: [B] classes; only used with a classifier.
    """
    x = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        features = encoder(x)
        if classifier is None or target is None:
            values = features.norm(dim=1)
        else:
            values = classifier(features).gather(1, target[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(values.sum(), x)
    return gradient.abs().amax(dim=1)


@torch.inference_mode()
def local_to_global(encoder: Encoder, local: Tensor) -> Tensor:
    """[B, h, w]: `each_local_global` as maps, of maps [B, C, h, w]."""
    found = torch.stack(list(each_local_global(encoder, local)), dim=1)
    return found.view(-1, *local.shape[2:])


def likeness(local: Tensor, position: tuple[int, int]) -> Tensor:
    """[B, h, w] cosine of each local representation [B, C, h, w] with the one at a position."""
    unit = F.normalize(local.double(), dim=1)
    row, column = position
    return (unit * unit[:, :, row, column, None, None]).sum(dim=1)


def most_representative(local: Tensor) -> tuple[int, int]:
    """(row, column) of the local representation that is most like all others of its map.

    The highest sum of cosines with the map's local representations; of equal ones the first.

    Args:
        local: [1, C, h, w].
    """
    unit = F.normalize(local[0].double().flatten(1), dim=0)
    # Rounded, so that equal sums stay equal on every machine.
    total = (unit.T @ unit.sum(dim=1)).mul(1e9).round()
    row, column = divmod(int(total.argmax()), local.shape[3])
    return row, column


@torch.inference_mode()
def _represent(encoder: Encoder, images: Tensor) -> tuple[Tensor, Tensor]:
    local = encoder.local(images)
    whole = encoder.pool(local).float()
    if not bool(torch.isfinite(local).all() and torch.isfinite(whole).all()):
        raise CossError(
            "the model gives NaN or infinite representations of this image; its training "
            "diverged, so pretrain it again with a lower learning rate"
        )
    return local, whole


def _in_words(
    logits: Tensor, answers: Tensor, classes: tuple[str, ...], label: int | None
) -> list[tuple[str, str]]:
    """Class and share of the softmax of each of [B, K] logits, and that of the right class where
    it is another.
    """
    words = []
    for share, k in zip(logits.double().softmax(dim=1).tolist(), answers.tolist(), strict=True):
        known = label is not None and label < len(share)  # a head may have other classes
        right = f"; right class {_percent(share[label])}" if known and k != label else ""
        words.append((classes[k], _percent(share[k]) + right) if k >= 0 else ("no answer", ""))
    return words


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "< 0.5 %"
