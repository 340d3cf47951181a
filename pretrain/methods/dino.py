"""DINO (Caron et al. 2021, arXiv 2104.14294), CO-DINO and DINO with multi-crop."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.pretrain.methods.base import MomentumMethod, MomentumOptions, ViewOutputs
from robustbench_coss.pretrain.methods.local_global import co
from robustbench_coss.pretrain.methods.losses import DINOLoss, Pairing, across_views
from robustbench_coss.pretrain.recipe import Recipe


class Prototypes(nn.Linear):
    """Cosines of bottleneck vectors with K prototypes: [M, bottleneck] -> [M, K].

    The weight-normalised last layer of DINO's head with its norm fixed to 1
    (`norm_last_layer=True` in facebookresearch/dino, vision_transformer.py, DINOHead).
    """

    def __init__(self, bottleneck: int, count: int) -> None:
        super().__init__(bottleneck, count, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class DINO(MomentumMethod):
    """Match the centred, sharpened output of a teacher on the other view; the mean over pairs."""

    class Options(MomentumOptions):
        """Defaults of the published code for ResNet-50."""

        ema: float = Field(0.996, ge=0, le=1)
        """EMA momentum of the teacher at the first step; it rises to 1 along a cosine."""
        hidden: int = Field(2048, ge=1, le=65_536)
        """Hidden units of the head's three layers."""
        bottleneck: int = Field(256, ge=2, le=65_536)
        """Size of the normalised vectors that are compared with the prototypes."""
        prototypes: int = Field(65536, ge=2, le=1_048_576)
        """Number of outputs K."""
        batch_norm: bool = False
        """BatchNorm in the head; the published ResNet-50 has none."""
        student_temperature: float = Field(0.1, gt=0, le=1e4)
        """Temperature of the student's softmax."""
        teacher_temperature: float = Field(0.04, gt=0, le=1e4)
        """Temperature of the teacher's softmax after the warm-up."""
        warmup_teacher_temperature: float = Field(0.04, gt=0, le=1e4)
        """Temperature of the teacher's softmax in the first epoch."""
        warmup_teacher_temperature_epochs: int = Field(0, ge=0, le=1_000_000)
        """Epochs in which it moves linearly from the one to the other."""
        centre_momentum: float = Field(0.9, ge=0, lt=1)
        """Momentum of the moving average of the teacher's outputs."""
        freeze_last_layer: int = Field(1, ge=0, le=1_000_000)
        """Epochs in which the prototypes stay as they are."""

    options: Options
    exported = "teacher"
    sums_directions = False

    def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
        super().__init__(encoder, recipe, classes)
        self.add_branch("")

    def make_heads(self) -> tuple[nn.Module, nn.Module, Pairing]:
        options = self.options
        layers: list[nn.Module] = []
        for inputs in (self.encoder.dim, options.hidden):
            layers.append(nn.Linear(inputs, options.hidden))
            if options.batch_norm:
                layers.append(nn.BatchNorm1d(options.hidden))
            layers.append(nn.GELU())
        layers.append(nn.Linear(options.hidden, options.bottleneck))
        for layer in layers:
            if isinstance(layer, nn.Linear):  # DINOHead._init_weights
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        layers.append(Prototypes(options.bottleneck, options.prototypes))
        pairing = DINOLoss(options.prototypes, options.student_temperature, options.centre_momentum)
        return nn.Sequential(*layers), nn.Identity(), pairing

    def exported_encoder(self) -> Encoder:
        encoder: Encoder = self.target_encoder
        return encoder

    def teacher_temperature(self, epoch: int) -> float:
        """Temperature of the teacher's softmax in an epoch, counted from 0."""
        first, last = self.options.warmup_teacher_temperature, self.options.teacher_temperature
        epochs = self.options.warmup_teacher_temperature_epochs
        if epoch >= epochs:
            return last
        return first + (last - first) * epoch / max(1, epochs - 1)

    def on_train_epoch_start(self) -> None:
        for module in self.modules():
            if isinstance(module, DINOLoss):
                module.temperature = self.teacher_temperature(self.current_epoch)

    def on_after_backward(self) -> None:
        if self.current_epoch < self.options.freeze_last_layer:
            for weight in self.prototypes():
                weight.grad = None

    def prototypes(self) -> Iterator[Tensor]:
        """The student's prototypes, of every branch."""
        for module in self.modules():
            if isinstance(module, Prototypes) and module.weight.requires_grad:
                yield module.weight

    def global_loss(self, outputs: ViewOutputs) -> Tensor:
        projector, _, pairing = self.branch("")
        students = [projector(h) for h in outputs.pooled + outputs.small_pooled]
        self.watch_collapse(students[0])
        teachers = self.targets("", outputs)
        loss = across_views(students, teachers, pairing) / len(teachers)
        pairing.observe(teachers)
        return loss


class MultiCropDINO(DINO):
    """DINO whose student also sees local crops: the form of the paper."""

    multi_crop = True


CODINO = co(DINO)
"""DINO with the local-global term."""
