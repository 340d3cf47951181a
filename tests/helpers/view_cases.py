"""Pictures, options and draws for tests of augmented views."""

from __future__ import annotations

import torch

from robustbench_coss.pretrain.views import ViewOptions

OPTIONS = ViewOptions()
AREA, ASPECT = (OPTIONS.min_crop, OPTIONS.max_crop), OPTIONS.aspect
LOCAL_AREA = (OPTIONS.local_min_crop, OPTIONS.local_max_crop)
OFF = {
    "min_crop": 1.0,
    "aspect": 1.0,
    "flip": 0.0,
    "jitter": 0.0,
    "grey": 0.0,
    "blur": (0.0, 0.0),
    "solarize": (0.0, 0.0),
    "local_blur": 0.0,
}


def pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth random RGB images in [0, 1]: noise would make every resampling look alike."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
