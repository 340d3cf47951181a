"""Many independent tasks: one after the other in this process, or spread over a Ray cluster.

Both executors give each task's result, or the error that it ended with, as it comes in; one that
fails stops no other. Which node runs what, GPU shares and retries are Ray's business.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from robustbench_coss.errors import CossError, kind_and_line, one_line
from robustbench_coss.machine.allocator import keep_freed_memory

RETRIES = 3
"""How often a task is started again after its worker was lost (Ray's own default)."""

OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of a Ray that is started here: tasks pass names, not data."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a task on every item and yields (item, result or error) in the order of completion."""

    def __call__(
        self, task: Callable[[Item], Result], items: Iterable[Item], /
    ) -> Iterator[tuple[Item, Result | CossError]]: ...


def attempt(task: Callable[[Item], Result], item: Item) -> Result | CossError:
    """What a task gives, or the error that it ended with.

    An error that nobody foresaw becomes a CossError with its type and first line: hours of other
    tasks should not be lost to it, and its traceback could not be told apart among theirs.
    """
    try:
        return task(item)
    except CossError as error:
        return error
    except Exception as error:
        return CossError(kind_and_line(error))


def in_process(
    task: Callable[[Item], Result], items: Iterable[Item], /
) -> Iterator[tuple[Item, Result | CossError]]:
    """The executor that runs one task after the other in this process."""
    for item in items:
        yield item, attempt(task, item)


@contextmanager
def on_ray(address: str, gpus: float | None) -> Iterator[Executor]:
    """An executor on a Ray cluster, which is left, or stopped if it was started here, at the end.

    Tasks and items have to be picklable, and the paths in them valid on every node. A task takes
    one CPU. It may be started again after its worker was lost, so it has to find out by itself
    what an earlier attempt has done.

    Args:
        address: of a cluster (HOST:PORT), or "auto" for the one that runs on this machine; if
            none does, one is started for the time being.
        gpus: share of a GPU that a task takes, in [0, 1]; None for a whole one if there are any.

    Raises:
        CossError: Ray is not installed, the cluster does not answer, or it has fewer GPUs.
    """
    ray = _import_ray()
    _connect(ray, address)
    try:
        there = ray.cluster_resources().get("GPU", 0)
        share = min(1.0, there) if gpus is None else gpus
        if share > there:
            raise CossError(
                f"the Ray cluster {address!r} has no GPU; add a node with one, or pass --device cpu"
            )
        yield partial(_spread, ray, share)
    finally:
        ray.shutdown()


def _spread(
    ray: Any, gpus: float, task: Callable[[Item], Result], items: Iterable[Item], /
) -> Iterator[tuple[Item, Result | CossError]]:
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_attempt_in_worker)
    waiting = {remote.remote(task, item): item for item in items}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        item = waiting.pop(ready)
        try:
            yield item, ray.get(ready)
        except ray.exceptions.RayError as error:
            # What went wrong in a worker is wrapped in a page of both sides' tracebacks.
            cause = getattr(error, "cause", None) or error
            first, _, _ = str(cause).strip().partition("\n")
            yield item, CossError(f"given up by Ray: {first[:200] or type(cause).__name__}")


def _attempt_in_worker(task: Callable[[Item], Result], item: Item) -> Result | CossError:
    keep_freed_memory()  # a process that Ray started for us
    return attempt(task, item)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CossError(
            "running on a cluster needs Ray; install it: pip install 'robustbench-coss[cluster]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join a cluster, or start one; quietly, since Ray's talk would drown that of the task."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            if not (host and port.isdigit()):
                raise ValueError("it is neither HOST:PORT nor auto")
            # Ray itself would try for minutes to reach a node that is not there.
            socket.create_connection((host, int(port)), timeout=10).close()
        try:
            ray.init(address, **quiet)
        except ConnectionError:
            if address != "auto":
                raise
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise CossError(
            f"cannot use the Ray cluster {address!r} ({one_line(error)}); pass the HOST:PORT "
            "that `ray start --head` printed, or `auto` to use this machine"
        ) from error
