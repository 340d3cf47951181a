"""The encoder contract: local representations, then pooling.

The seam between `local` and `pool` is what the project studies: CO-SSL trains across it,
internal occlusion intervenes in it, redundancy looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_coss.datasets.geometry import USUAL, Geometry


@dataclass(frozen=True)
class InputSpec:
    """What pixels an encoder expects: RGB in [0, 1], normalised inside the encoder.

    Attributes:
        size: side in px that the encoder was built for.
        mean, std: per-channel normalisation in pixel units of [0, 1].
        geometry: how a picture becomes that large.
    """

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet, as torchvision uses
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    geometry: Geometry = USUAL


Stage = Callable[[Tensor], Tensor]
"""One step on the way from pixels to local representations."""


class Encoder(nn.Module):
    """Base of all encoders; subclasses implement `local` or `stages`, and may extend `pool`.

    Attributes:
        input: the pixel contract.
        local_dim: C, channels of a local representation.
        dim: D, features of the global representation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input: InputSpec, local_dim: int, dim: int) -> None:
        super().__init__()
        self.input, self.local_dim, self.dim = input, local_dim, dim
        # Not persistent: the contract travels in the checkpoint's metadata, not its weights.
        self.register_buffer("mean", torch.tensor(input.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, x: Tensor) -> Tensor:
        """Pixels in [0, 1] to the zero-mean, unit-variance scale the convolutions expect."""
        return (x - self.mean) / self.std

    def stages(self) -> dict[str, Stage]:
        """Named steps whose composition is `local`; each gives a map [B, C, h, w].

        What looks at or changes an earlier map than the last goes through these. An encoder that
        defines `local` alone has the one stage "local".
        """
        if type(self).local is Encoder.local:
            raise TypeError(f"{type(self).__name__} must define local() or stages()")
        return {"local": self.local}

    def local(self, x: Tensor) -> Tensor:
        """Local representations: [B, 3, H, W] pixels in [0, 1] -> [B, C, h, w]."""
        for stage in self.stages().values():
            x = stage(x)
        return x

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The map after each stage, by name; the last is `local(x)`."""
        found = {}
        for name, stage in self.stages().items():
            x = found[name] = stage(x)
        return found

    def each_maps(self, views: list[Tensor]) -> list[dict[str, Tensor]]:
        """`maps` of several batches of one shape, each as if it came alone."""
        return [self.maps(view) for view in views]

    def each_local(self, views: list[Tensor]) -> list[Tensor]:
        """`local` of several batches of one shape, each as if it came alone."""
        return [self.local(view) for view in views]

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        """Global representation: [B, C, h, w] -> [B, D].

        Args:
            local: local representations.
            keep: [B, h, w] bool; positions that enter the mean. None keeps all. An image with no
                kept position gets the mean of nothing, defined as zero.
        """
        if keep is None:
            return local.mean(dim=(2, 3))
        weight = keep.to(local.dtype).unsqueeze(1)
        total = (local * weight).sum(dim=(2, 3))
        return total / weight.sum(dim=(2, 3)).clamp_min(1)

    def forward(self, x: Tensor) -> Tensor:
        """Global representation of an image: pool(local(x))."""
        return self.pool(self.local(x))


def parameters(encoder: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in encoder.parameters())


@torch.no_grad()
def multiply_accumulates(encoder: Encoder) -> int:
    """MACs of one image: half the FLOPs that torch counts for convolutions and matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    device = next(encoder.parameters(), torch.empty(0)).device  # pixels have none
    size = encoder.input.size
    was_training = encoder.training
    encoder.eval()
    # Attention as matrix products: torch does not count its fused form on CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, size, size, device=device))
    encoder.train(was_training)
    return int(counter.get_total_flops()) // 2
