"""How many training pictures one CPU core reads, decodes and cuts into views per second.

What `workers` of a run do, on a random sample of your own pictures: reading from the disk,
decoding, cutting and resizing the crops of every view. Colours, blur and the network are not in it;
they are computed on the training device. Many cores share disk and memory, so N workers do less
than N times as much.

    python -m benchmarks.pictures --dataset imagenet --data-root /data --json pictures.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from robustbench_coss.datasets.base import ArraySet, open_dataset
from robustbench_coss.machine.environment import device_name
from robustbench_coss.pretrain.data import Samples
from robustbench_coss.pretrain.recipe import Recipe
from robustbench_coss.seeds import permutation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="imagenet")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--size", type=int, help="side of the views in px; default: the data set's")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--local-crops", type=int, default=0, help="multi-crop methods have 6")
    parser.add_argument("--pictures", type=int, default=500, help="per repeat, each another sample")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.set_num_threads(1)  # as in a worker
    images = open_dataset(options.dataset, "train", size=options.size, root=options.data_root)
    if isinstance(images, ArraySet):
        parser.error(f"{options.dataset} is held in memory: nothing is decoded")
    samples = Samples(images, Recipe(), options.views, options.local_crops)
    order = permutation(len(images), 0, "pictures")
    rates, megapixels, taken = [], [], 0
    for repeat in range(options.repeats):
        chosen = [int(order[(taken + i) % len(order)]) for i in range(options.pictures)]
        taken += options.pictures
        began = time.process_time(), time.perf_counter()
        for i in chosen:
            batch = samples.__getitems__([(repeat, i)])
            if isinstance(batch, Exception):
                raise batch
        cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
        rates.append((options.pictures / cpu, options.pictures / wall))
        megapixels += [images.raw(i)[0].numel() / 1e6 for i in chosen[:50]]
    found = {
        "device": device_name(torch.device("cpu")),
        "dataset": options.dataset,
        "size": images.size,
        "views": options.views,
        "local_crops": options.local_crops,
        "pictures": options.pictures,
        "repeats": options.repeats,
        "megapixels": statistics.fmean(megapixels),
        "per_cpu_second": statistics.median(cpu for cpu, _ in rates),
        "per_second": statistics.median(wall for _, wall in rates),
    }
    print(
        f"{found['per_cpu_second']:.0f} pictures per second of one core ({found['per_second']:.0f} "
        f"per second of the clock), {found['megapixels']:.2f} megapixels each on average"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
