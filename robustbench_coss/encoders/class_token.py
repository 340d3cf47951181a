"""Encoders whose global representation is a class token that reads the patches by attention."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_coss.encoders.base import Encoder, InputSpec

PREFIX_SCALE = 2.0**-12
"""Factor on the class token's channels in a local map: exact in floating point, and so small that
lengths and cosines of local representations are those of the patch tokens."""


class ClassTokenEncoder(Encoder):
    """A vision transformer up to its last block, which is the pooling; subclasses run the blocks.

    A class token reads the patches through attention and is a state of its own on the way up, so
    the pooling of this encoder is the last block: `local` gives the patch tokens that enter it,
    `pool` runs it, the final norm and the model's head. The class token that enters the last block
    (and register tokens, if any) travels with the map: appended to the channels of every position,
    times `PREFIX_SCALE`. `pool` takes its mean over the positions that carry it, which are those
    not set to zero; so a hidden position takes a patch token away and never the class token.
    `keep` drops patch tokens from the last block; with none kept, it sees the class token alone.

    Args:
        input: the pixel contract.
        dim: D, channels of a token.
        prefixes: P, tokens that are no patches, the class token first.
        features: of the global representation, if `read` gives others than D.
    """

    def __init__(
        self, input: InputSpec, dim: int, prefixes: int, features: int | None = None
    ) -> None:
        super().__init__(input, local_dim=dim * (1 + prefixes), dim=features or dim)
        self.prefixes = prefixes

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels to what enters the last block: [B, D, h, w] and prefix [B, P, D]."""
        raise TypeError(f"{type(self).__name__} must define enter()")

    def read(self, tokens: Tensor) -> Tensor:
        """Global representation [B, features] that the last block makes of tokens [B, P + N, D]."""
        raise TypeError(f"{type(self).__name__} must define read()")

    def local(self, x: Tensor) -> Tensor:
        patches, prefix = self.enter(self.normalise(x))
        carried = PREFIX_SCALE * prefix.flatten(1)[:, :, None, None]
        return torch.cat([patches, carried.expand(-1, -1, *patches.shape[2:])], dim=1)

    def split(self, local: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens [B, N, D] and prefix [B, P, D] of local representations."""
        width = self.local_dim // (1 + self.prefixes)
        carried = local[:, width:].flatten(2)
        carriers = (carried != 0).any(dim=1).sum(dim=1).clamp_min(1)
        prefix = carried.sum(dim=2) / (PREFIX_SCALE * carriers[:, None])
        patches = local[:, :width].flatten(2).transpose(1, 2)
        return patches, prefix.view(-1, self.prefixes, width)

    def pool(self, local: Tensor, keep: Tensor | None = None) -> Tensor:
        patches, prefix = self.split(local)
        if keep is None:
            return self.read(torch.cat([prefix, patches], dim=1))
        kept = keep.flatten(1)
        counts = kept.sum(dim=1)
        pooled = patches.new_empty(len(patches), self.dim)
        for count in sorted(set(counts.tolist())):  # sequences of one batch have one length
            same = counts == count
            chosen = patches[same][kept[same]].view(int(same.sum()), count, patches.shape[2])
            pooled[same] = self.read(torch.cat([prefix[same], chosen], dim=1)).to(pooled.dtype)
        return pooled
