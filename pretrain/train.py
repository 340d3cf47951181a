"""Running a recipe: from a validated recipe to a run folder.

A run folder holds `recipe.yaml`, `last.ckpt` (resumable, written after every epoch),
`metrics.csv`, `tensorboard/` and, when training is over, `encoder.safetensors`.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from pretrain.data import subset, training_loader
from pretrain.method import Method, parse_options
from pretrain.monitors import MetricsFile, OnlineProbe, ProgressLine, Watch, last_metrics
from pretrain.recipe import Recipe, build_recipe, differing_keys, dump_recipe, read_recipe
from robustbench_coss import registry
from robustbench_coss.checkpoints import FILE_NAME, build_encoder, save_encoder
from robustbench_coss.datasets.base import open_dataset
from robustbench_coss.encoders.base import parameters
from robustbench_coss.environment import device_name, resolve_device, versions
from robustbench_coss.errors import CossError, explain_os_errors
from robustbench_coss.files import write_atomically
from robustbench_coss.seeds import seed_of

RECIPE_NAME = "recipe.yaml"
CHECKPOINT_NAME = "last.ckpt"
METRICS_NAME = "metrics.csv"


def run_recipe(out: Path) -> Recipe:
    """The recipe of an existing run folder. Raises CossError if there is none."""
    path = out / RECIPE_NAME
    if not path.is_file():
        raise CossError(f"nothing to resume: {out} holds no {RECIPE_NAME}; drop --resume to start")
    return build_recipe(read_recipe(str(path)), str(path))


def _check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """Raise CossError unless the run may be written to `out`, or go on there if `resume`."""
    if resume:
        changed = differing_keys(recipe, run_recipe(out))
        if changed:
            raise CossError(
                f"{out} was started with another recipe: {', '.join(changed)} differ; "
                "resume without those options or start afresh in another --out"
            )
    elif out.exists() and not out.is_dir():
        raise CossError(f"{out} is a file; pass a folder as --out")
    elif out.exists() and any(out.iterdir()):
        raise CossError(f"{out} is not empty; pass --resume to go on with it, or another --out")


RESUMED = {"epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers"}
"""What Lightning restores beside the weights."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written like all files of this project.

    Lightning's own way goes through the system's temporary folder, from where a move to another
    disk is a copy: killed in the middle, it would leave half a checkpoint in place of a whole one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getvalue())


def _check_resumable(checkpoint: Path, method: Method) -> None:
    """Raise CossError unless a checkpoint is whole and fits the method; runs no code in it."""
    remedy = "delete it to train from the beginning with --resume, or start in another --out"
    try:
        with explain_os_errors("read", checkpoint), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to load a foreign pickle
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        shapes = {key: value.shape for key, value in stored["state_dict"].items()}
        complete = set(stored) >= RESUMED
    except CossError:
        raise
    except Exception as error:  # torch raises many kinds on damaged, foreign or malicious files
        raise CossError(
            f"{checkpoint} is truncated or not a checkpoint of this tool "
            f"({type(error).__name__}); {remedy}"
        ) from error
    if not complete or shapes != {key: value.shape for key, value in method.state_dict().items()}:
        raise CossError(f"{checkpoint} does not fit the recipe beside it; {remedy}")


def pretrain(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    data_root: Path = Path("data"),
    download: bool = False,
) -> Path:
    """Pretrain an encoder and export it.

    Args:
        recipe: what to train.
        out: run folder; must be new or empty unless `resume`.
        device: "auto", "cpu" or "cuda".
        resume: go on from the last checkpoint of `out`; a finished run is left as it is.
        data_root: where data sets lie.
        download: fetch a missing data set.

    Returns:
        The exported `encoder.safetensors`.

    Raises:
        CossError: anything that the user can put right; what was written before stays.
        KeyboardInterrupt: interrupted; the last finished epoch is in `last.ckpt`.
    """
    _check_folder(recipe, out, resume)
    exported = out / FILE_NAME
    if resume and exported.is_file():
        return exported
    target = resolve_device(device)
    method_type: type[Method] = registry.load("method", recipe.method)
    parse_options(method_type, recipe.options)
    opened = {
        role: open_dataset(
            recipe.dataset, role, size=recipe.size, root=data_root, download=download
        )
        for role in ("train", "validation")
    }
    train = opened["train"]
    torch.manual_seed(seed_of(recipe.seed, "initialisation"))
    encoder = build_encoder(recipe.arch, size=train.size, width=recipe.width)
    method = method_type(encoder, recipe)
    loader = training_loader(train, recipe, method.views)
    checkpoint = out / CHECKPOINT_NAME
    last = checkpoint if resume and checkpoint.is_file() else None
    if last is not None:
        _check_resumable(last, method)
    if not resume:
        write_atomically(out / RECIPE_NAME, dump_recipe(recipe))

    method.to(memory_format=torch.channels_last)  # 1.3 to 1.5 times faster, on CPUs too
    every = recipe.monitor_every or max(1, recipe.epochs // 10)
    _quieten_lightning()
    with explain_os_errors("write to", out):
        trainer = pl.Trainer(
            default_root_dir=out,
            accelerator="gpu" if target.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            plugins=[AtomicCheckpointIO()],
            logger=TensorBoardLogger(out, name="", version="tensorboard"),
            callbacks=[
                OnlineProbe(encoder.dim, len(train.classes), recipe.seed),
                Watch(train, opened["validation"], every),
                MetricsFile(out / METRICS_NAME),
                ProgressLine(f"{recipe.method} seed {recipe.seed}", recipe.batch_size),
                ModelCheckpoint(
                    out,
                    filename=CHECKPOINT_NAME.removesuffix(".ckpt"),
                    save_on_train_epoch_end=True,
                    enable_version_counter=False,
                ),
            ],
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(method, loader, ckpt_path=last, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C, which it then ignores for good
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
        except torch.OutOfMemoryError as error:
            raise CossError(
                f"the GPU ran out of memory at batch size {recipe.batch_size}; start again in "
                "another --out with a smaller --batch-size, or split batches: --set accumulate=2"
            ) from error
    trained = method.exported_encoder()
    save_encoder(
        exported,
        trained,
        {
            "arch": recipe.arch,
            "width": recipe.width,
            "size": train.size,
            "method": recipe.method,
            "encoder": method.exported,
            "dataset": recipe.dataset,
            "dataset_fingerprint": train.fingerprint,
            "parameters": parameters(trained),
            "training": {
                "seed": recipe.seed,
                "epochs": recipe.epochs,
                "batch_size": recipe.batch_size,
                "images": len(subset(len(train), recipe.limit)),
                "steps": trainer.global_step,
                "precision": recipe.precision,
                "optimizer": recipe.optimizer.model_dump(mode="json"),
                "views": recipe.views.model_dump(mode="json"),
                "options": method.options.model_dump(mode="json"),
            },
            "monitors": last_metrics(out / METRICS_NAME),
            "device": device_name(target),
            "versions": versions(),
        },
    )
    return exported


def _quieten_lightning() -> None:
    """Keep Lightning's banners and advice out of the user's terminal."""
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
