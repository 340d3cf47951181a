"""robustbench-coss: pretrain CO-SSL encoders and measure how robust any vision encoder is."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_coss.api import evaluate
    from robustbench_coss.evaluations.running.request import Evaluation

_HOMES = {
    "evaluate": "robustbench_coss.api",
    "Evaluation": "robustbench_coss.evaluations.running.request",
}

__version__ = "0.1.0"
__all__ = ["Evaluation", "__version__", "evaluate"]


def __getattr__(name: str) -> Any:
    """Both are loaded when asked for: they bring torch, and `--version` should not wait."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
