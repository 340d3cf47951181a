"""What a record says of the model and the images that were measured. In memory these are dicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from robustbench_coss.records.fields import (
    CONFIG,
    Count,
    Digest,
    Name,
    Number,
    Positive,
    Share,
    Text,
    YesNo,
)

FACTS = "facts"
"""Key of `Record.extra` with numbers of a model that tables show: by name `label`, `value` and, of
how many images, `images`."""
OPEN = ConfigDict(extra="allow", use_attribute_docstrings=True)  # may say more than is named here


class Training(BaseModel):
    """The pretraining; of a model of another tool, whatever is known."""

    model_config = OPEN

    recipe: dict[str, Any] = {}
    """The recipe, whole, with the options that were left to the method's defaults."""
    images: Count = 0
    """Number of training images."""
    steps: Count = 0
    """Optimiser steps."""


class OwnHead(BaseModel):
    """The model's own classifier."""

    model_config = OPEN

    own_head: Literal[True]
    """That it is."""


class Probe(BaseModel):
    """A linear classifier on frozen features; its file is probes/KEY.safetensors."""

    model_config = OPEN

    key: Digest
    """Digest of all that determines the probe."""
    checkpoint_sha256: Digest = ""
    """SHA-256 of the encoder it was trained on."""
    dataset: Name
    """Data set of the training images."""
    settings: dict[str, Any]
    """How it was trained: kind and its constants."""
    n_train: Positive = 1
    """Training images."""
    train_top1: Share = 0.0
    """Share of the training images it has right."""
    validation_top1: Share | None = None
    """Share of the validation images, before these were fitted to, where they were; null if there
    are none."""
    l2: Annotated[Number, Field(gt=0)] = 1.0
    """Regularisation λ chosen on the validation images (logistic)."""
    loss: Number = 0.0
    """Training loss in nats, with the penalty."""
    gap: Number = 0.0
    """How far the training loss is above the optimum, in nats."""
    iterations: Count = 0
    """Newton steps over all λ (logistic)."""
    in_place_of_head: YesNo = False
    """Whether the model has a classifier of its own for these classes; absent if not."""
    optimum_top1: Share = 0.0
    """What `validation_top1` is at the optimum (sgd, simclr)."""


def _classifier(probe: Any) -> str:
    return "own head" if isinstance(probe, dict) and "own_head" in probe else "linear"


class Model(BaseModel):
    """The model that was measured."""

    model_config = CONFIG

    name: Name
    """The run folder's name, or the file's."""
    checkpoint_sha256: Digest
    """SHA-256 of the checkpoint file, of another tool's with how it was read; for a model that is
    no file, of all that it computes with."""
    file: Text = ""
    """The end of the path of another tool's file, which tells it from others of its name."""
    file_sha256: Digest = ""
    """SHA-256 of that file alone."""
    answers_sha256: Digest = ""
    """SHA-256 of what a module from Python gives for a fixed batch; absent for others."""
    reading: dict[str, Any] = {}
    """How a model of another library or tool was read: what its features are (`pooling`),
    normalisation, size, commit; of a file, the options that read it so again. Absent for others."""
    method: Text | None
    """Pretraining method (co-byol); null if not known."""
    arch: Text | None
    """Architecture (rf29_resnet18)."""
    width: Annotated[Number, Field(gt=0)] | None
    """Factor on the architecture's channel counts."""
    parameters: Count
    """Number of parameters of the encoder."""
    encoder: Text | None
    """Which of two networks it is: online or teacher."""
    dataset: Text | None
    """Data set it was pretrained on; null if not known."""
    training: Training
    """How it was pretrained."""
    probe: Annotated[
        Annotated[OwnHead, Tag("own head")] | Annotated[Probe, Tag("linear")],
        Discriminator(_classifier),
    ]
    """The classifier."""
    mlp: YesNo = False
    """Whether an MLP follows the pooling, where it was forced and no recipe says so."""
    control: Literal["pixels", "untrained"] = "untrained"
    """Which control it is: its pixels as features, or freshly initialised; absent for models."""


class Cut(BaseModel):
    """How a picture becomes a square of `size` px, of whose middle the images are."""

    model_config = CONFIG

    resize: Positive
    """Side in px that it is resized to."""
    mode: Literal["center", "squash", "border"]
    """Of the shorter side, of both, or of the longer side, as timm names it."""
    interpolation: Name
    """Pillow's."""
    fill: list[Count]
    """Red, green and blue of a border."""


class ImageList(BaseModel):
    """A list of images to measure."""

    model_config = CONFIG

    file: Name
    """Name of the file."""
    images: Digest
    """Digest of the data set indices of those that were measured, sorted."""


class OtherImages(BaseModel):
    """Images other than the test images that some conditions were measured on."""

    model_config = CONFIG

    name: Name
    """What the suite calls them."""
    fingerprint: Digest | Literal[""]
    """Digest of all of them and their labels, in order; empty for derived numbers."""
    n: Positive
    """Number of those measured, in a fixed random order of all."""
    conditions: list[Name]
    """Conditions whose columns have so many values instead of one for each image of `index`."""


class DataSet(BaseModel):
    """The images that were measured."""

    model_config = CONFIG

    name: Name
    """Registered name of the data set."""
    role: Literal["train", "validation", "test"]
    """Part of it."""
    fingerprint: Digest
    """Digest of all its images and labels, in order."""
    size: Positive
    """Side of the images in px."""
    classes: Positive
    """Number of classes."""
    n: Positive
    """Number of images measured."""
    limit: Positive | None
    """The limit asked for (eval --limit); null for all images."""
    train: Digest = ""
    """Digest of the training images, where a suite looks at them (kNN, reference images) and no
    probe's key knows them: of a model with a classifier of its own; absent otherwise."""
    geometry: Cut | None = None
    """How the model's own preprocessing resizes and cuts pictures; absent where it is the usual
    one, the shorter side to size * 256 / 224, of which the centre."""
    unreadable: dict[Name, Positive] = {}
    """How many pictures of each role, or other set of `others`, cannot be read and were left out
    (eval --skip-bad-images), of those beyond a limit as well; absent where all can be, or a single
    one ends it."""
    image_list: ImageList | None = None
    """The list that names the images (eval --image-list); absent without one."""
    others: list[OtherImages] = []
    """Other images that conditions were measured on; absent where there are none."""
