"""The local-global term of CO-SSL, written once for every method.

Each local representation of one view is aligned with the *global* representation of the other
view (arXiv 2501.02860). A method brings its heads and its pairing loss; `co` adds the term.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from pretrain.method import Method, MethodOptions, ViewOutputs
from pretrain.recipe import Recipe
from robustbench_coss.encoders.base import Encoder
from robustbench_coss.errors import CossError

Pairing = Callable[[Tensor, Tensor], Tensor]
"""(predictions [B, N, K], targets [B, K]) -> scalar mean over samples and positions."""


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
    local: list[Tensor], targets: list[Tensor], head: nn.Module, pairing: Pairing, n: int | None
) -> Tensor:
    """Sum over both directions of the pairing of every local with the other view's global.

    Args:
        local: per view, [B, C, h, w].
        targets: per view, the target's projected global representation u, [B, K].
        head: from a local representation to a prediction, [M, C] -> [M, K].
        pairing: the method's loss.
        n: grid side, None for all positions.
    """
    first, second = (over_positions(head, take_grid(y, n)) for y in local)
    return pairing(first, targets[1]) + pairing(second, targets[0])


class CoOptions(MethodOptions):
    """Options of the local-global term."""

    w_s: float = Field(0.3, ge=0, le=1)
    """Weight of the local term; the paper's good range is 0.2 to 0.5."""
    grid: int | None = Field(None, ge=1)
    """n of an n×n grid of local representations; None for all positions."""


def co(base: type[Method]) -> type[Method]:
    """The CO- form of a method: L = (1 - w_s) · L_global + w_s · L_local."""

    class Co(base):  # type: ignore[misc, valid-type]
        class Options(CoOptions, base.Options):  # type: ignore[misc, name-defined]
            pass

        options: Options

        def __init__(self, encoder: Encoder, recipe: Recipe) -> None:
            super().__init__(encoder, recipe)
            if encoder.local_dim != encoder.dim:
                raise CossError(
                    f"CO- methods share a projector between local ({encoder.local_dim}) and "
                    f"global ({encoder.dim}) representations, whose sizes differ in this encoder"
                )
            if self.options.grid is not None:  # too large a grid is refused before training starts
                blank = torch.zeros(1, 3, encoder.input.size, encoder.input.size)
                with torch.no_grad():
                    take_grid(encoder.eval().local(blank), self.options.grid)
                encoder.train()
            self.local_projector = self.local_head()
            self.local_predictor = self.local_predictor_head()
            self.target_local_projector = copy.deepcopy(self.local_projector).requires_grad_(False)
            self.momentum_pairs.append((self.local_projector, self.target_local_projector))

        def losses(self, outputs: ViewOutputs) -> dict[str, Tensor]:
            with torch.no_grad():
                targets = [self.target_local_projector(h) for h in outputs.target_pooled]
            head = nn.Sequential(self.local_projector, self.local_predictor)
            local = local_global_loss(outputs.local, targets, head, self.pairing, self.options.grid)
            overall = self.global_loss(outputs)
            w = self.options.w_s
            return {"loss": (1 - w) * overall + w * local, "global": overall, "local": local}

    Co.__name__ = Co.__qualname__ = f"CO{base.__name__}"
    Co.__doc__ = f"{base.__name__} with the local-global term."
    return Co
