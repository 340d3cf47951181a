"""robustbench-coss: pretrain CO-SSL encoders and measure how robust any vision encoder is."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_coss.api import evaluate

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate"]


def __getattr__(name: str) -> Any:
    """`evaluate` is loaded when asked for: it brings torch, and `--version` should not wait."""
    if name == "evaluate":
        from robustbench_coss.api import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
