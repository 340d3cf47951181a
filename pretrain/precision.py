"""32 bit or bf16: which one a device is faster in with a recipe, measured once per run.

In bf16 (`machine.precision`) weights, their optimiser and losses stay in 32 bit.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustbench_coss.encoders.base import multiply_accumulates
from robustbench_coss.errors import CossError
from robustbench_coss.files import write_atomically
from robustbench_coss.machine import precision
from robustbench_coss.machine.environment import device_name
from robustbench_coss.machine.precision import FASTER, native_bf16
from robustbench_coss.pretrain.distributed import (
    mean_over_ranks,
    rank,
    reported_once,
    world_size,
)
from robustbench_coss.pretrain.loop import out_of_memory
from robustbench_coss.pretrain.methods.base import Method
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.pretrain.run_folder import CHECKPOINT_NAME
from robustbench_coss.reading import MOST_TEXT, parse_json, read_bytes

FILE_NAME = "precision.json"


def micro_batch(recipe: Recipe) -> int:
    """Images of a process that go through the encoder at once, at least four to be timed."""
    return max(4, recipe.batch_size // (recipe.accumulate * world_size()))


def bf16_over_32(method: Method, size: int, device: torch.device) -> float:
    """Time of a forward and backward pass in bf16, as a share of that in 32 bit.

    On random pixels by a copy of the method, which stays as it is. All processes of a run measure
    at once and get the same answer, the mean of theirs.
    """
    macs = multiply_accumulates(method.encoder)
    batch = precision.timed_batch(micro_batch(method.recipe), macs, device)
    twin = copy.deepcopy(method).to(device).train()
    draw = torch.Generator().manual_seed(rank())
    crops = [(twin.views, size), (twin.local_crops, twin.recipe.views.local_side(size))]
    views = [
        torch.rand(batch, 3, side, side, generator=draw)
        .to(device)
        .contiguous(memory_format=torch.channels_last)
        for count, side in crops
        for _ in range(count)
    ]
    labels = torch.arange(batch, device=device) % max(1, method.classes)

    def step(half: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            outputs = twin.encode(views)
            loss = twin.losses(replace(outputs, labels=labels))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        twin.zero_grad()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        share = precision.half_over_32(step, device)
    return float(mean_over_ranks(torch.tensor(share, device=device)))


def choose(method: Method, size: int, device: torch.device) -> dict[str, Any]:
    """The precision for a method on a device, with what it was chosen by.

    Returns:
        `precision` ("32" or "bf16"), `native` (whether bf16 is), `bf16_over_32` (see there; None
        where bf16 is not native and was not tried) and `device` in words.
    """
    native = native_bf16(device)
    ratio = bf16_over_32(method, size, device) if native else None
    return {
        "precision": "bf16" if ratio is not None and ratio <= FASTER else "32",
        "native": native,
        "bf16_over_32": None if ratio is None else round(ratio, 3),
        "device": device_name(device),
    }


def settle(method: Method, out: Path, size: int, device: torch.device) -> Recipe:
    """The recipe with the precision that its run in the folder `out` has, chosen now or before.

    Raises:
        CossError: the folder's file is damaged, or a GPU's memory too small for a step.
    """
    path, recipe = out / FILE_NAME, method.recipe
    if recipe.precision != "auto":
        return recipe
    if not path.exists() and not (out / CHECKPOINT_NAME).exists():
        try:
            found = choose(method, size, device)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(recipe) from error
        if rank() == 0:
            write_atomically(path, json.dumps(found, indent=1) + "\n")
    else:
        try:
            found = parse_json(read_bytes(path, MOST_TEXT))
            assert found["precision"] in ("32", "bf16")
        except (CossError, ValueError, TypeError, KeyError, AssertionError) as error:
            raise reported_once(
                CossError(
                    f"{path} is missing or damaged; it says in which precision the run began: "
                    'write {"precision": "32"} or "bf16" into it, or start in another --out'
                )
            ) from error
    return recipe.model_copy(update={"precision": found["precision"]})


def settle_for_plan(method: Method, size: int, device: torch.device) -> str:
    """Give a method the precision that a plan measures; that of the run comes back in words.

    The same but where bf16 is emulated: there a single step could take minutes.
    """
    asked, said = method.recipe.precision, str(method.recipe.precision)
    measured = asked
    if asked == "auto":
        found = choose(method, size, device)
        measured, ratio = found["precision"], found["bf16_over_32"]
        said = f"auto, here {measured}: " + (
            f"a step in bf16 takes {ratio} of one in 32 bit"
            if found["native"]
            else "this device has no bf16 of its own"
        )
    elif asked == "bf16" and not native_bf16(device):
        measured, said = "32", "bf16, which this device emulates, slowly; measured in 32 bit"
    method.recipe = method.recipe.model_copy(update={"precision": measured})
    return said
