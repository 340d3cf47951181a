"""The local-global term of CO-SSL, written once for every method.

Each local representation of one view is aligned with the *global* representation of the other
view (arXiv 2501.02860). A method brings its heads and its pairing loss; `co` adds the term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError
from robustbench_coss.pretrain.methods.base import Method, MethodOptions, ViewOutputs
from robustbench_coss.pretrain.recipe import Recipe


def take_grid(local: Tensor, n: int | None) -> Tensor:
    """Local representations as rows: [B, C, h, w] -> [B, N, C].

    Args:
        local: the map.
        n: None for all h·w positions, else an n×n grid spread evenly over the map.

    Raises:
        CossError: the map has fewer than n rows or columns.
    """
    if n is not None:
        height, width = local.shape[2:]
        if n > min(height, width):
            raise CossError(
                f"grid of {n}×{n} local representations asked for, the map is only "
                f"{height}×{width}; lower `grid` or raise the image size"
            )
        rows = torch.linspace(0, height - 1, n, device=local.device).round().long()
        columns = torch.linspace(0, width - 1, n, device=local.device).round().long()
        if n == 1:
            rows, columns = rows + height // 2, columns + width // 2
        local = local[:, :, rows][:, :, :, columns]
    return local.flatten(2).transpose(1, 2)


def over_positions(head: nn.Module, rows: Tensor) -> Tensor:
    """An MLP shared over positions (a 1×1 convolution): [B, N, C] -> [B, N, K].

    Positions are flattened into the batch, so BatchNorm pools over batch and positions.
    """
    out: Tensor = head(rows.reshape(-1, rows.shape[2]))
    return out.view(rows.shape[0], rows.shape[1], -1)


def local_global_loss(
    local: list[Tensor],
    targets: list[Tensor],
    head: nn.Module,
    pairing: Callable[[Tensor, Tensor], Tensor],
    n: int | None,
    same_view: bool = False,
) -> Tensor:
    """Sum over both directions of the pairing of every local with the other view's global.

    Args:
        local: per view, [B, C, h, w].
        targets: per view, the target's projected global representation u, [B, K].
        head: from a local representation to a prediction, [M, C] -> [M, K].
        pairing: the method's loss: predictions [B, N, K], targets [B, K] -> scalar mean.
        n: grid side, None for all positions.
        same_view: pair with the global representation of the same view instead.
    """
    first, second = (over_positions(head, take_grid(y, n)) for y in local)
    one, two = targets if same_view else reversed(targets)
    return pairing(first, one) + pairing(second, two)


class CoOptions(MethodOptions):
    """Options of the local-global term."""

    w_s: float = Field(0.3, ge=0, le=1)
    """Weight of the local term; the paper's good range is 0.2 to 0.5."""
    grid: int | None = Field(None, ge=1, le=4096)
    """n of an n×n grid of local representations; None for all positions."""
    heads: Literal["separate", "shared"] = "separate"
    """Whether local and global representations have heads of their own."""
    target: Literal["other", "same"] = "other"
    """The view whose global representation is the target of a local one."""
    layer: str | None = None
    """Stage of the encoder that local representations are taken from; None for the last."""


def co(base: type[Method]) -> type[Method]:
    """The CO- form of a method: L = (1 - w_s) · L_global + w_s · L_local."""

    class Co(base):  # type: ignore[misc, valid-type]
        class Options(CoOptions, base.Options):  # type: ignore[misc, name-defined]
            pass

        options: Options

        def __init__(self, encoder: Encoder, recipe: Recipe, classes: int = 0) -> None:
            super().__init__(encoder, recipe, classes)
            if self.options.layer is not None:
                if self.options.layer not in encoder.stages():
                    raise CossError(
                        f"options.layer: this encoder has no stage {self.options.layer!r}, "
                        f"only {', '.join(encoder.stages())}"
                    )
                self.layer = self.options.layer
            local = blank_maps(encoder)[self.layer]
            take_grid(local, self.options.grid)  # too large a grid is refused before training
            # A target's projector takes global representations, its online twin local ones: where
            # their sizes differ, a linear map (a 1×1 convolution) goes before the latter.
            self.local_adapter = (
                nn.Identity()
                if local.shape[1] == encoder.dim
                else nn.Linear(local.shape[1], encoder.dim, bias=False)
            )
            self.local_branch = ""
            if self.options.heads == "separate":
                self.local_branch = "local_"
                self.add_branch(self.local_branch)

        def losses(self, outputs: ViewOutputs) -> dict[str, Tensor]:
            projector, predictor, pairing = self.branch(self.local_branch)
            targets = self.targets(self.local_branch, outputs)
            local = local_global_loss(
                outputs.local,
                targets,
                nn.Sequential(self.local_adapter, projector, predictor),
                pairing,
                self.options.grid,
                same_view=self.options.target == "same",
            )
            if not self.sums_directions:
                local = local / 2
            overall = self.global_loss(outputs)
            if self.local_branch:  # a shared pairing has seen its targets in the global branch
                pairing.observe(targets)
            w = self.options.w_s
            return {"loss": (1 - w) * overall + w * local, "global": overall, "local": local}

    Co.__name__ = Co.__qualname__ = f"CO{base.__name__}"
    Co.__doc__ = f"{base.__name__} with the local-global term."
    return Co


@torch.no_grad()
def blank_maps(encoder: Encoder) -> dict[str, Tensor]:
    """The maps of one black image, for their shapes; the encoder is left as it was."""
    was_training = encoder.training
    image = torch.zeros(1, 3, encoder.input.size, encoder.input.size)
    maps = encoder.eval().maps(image)
    encoder.train(was_training)
    return maps
