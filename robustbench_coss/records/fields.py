"""Kinds of fields that the models of a record share: exact types, nothing but words converted."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    Strict,
    StringConstraints,
    ValidationInfo,
)
from pydantic_core import core_schema

CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Text = Annotated[str, Strict()]
Name = Annotated[str, StringConstraints(strict=True, min_length=1)]


def _with_norms(text: str) -> str:
    """Words with norms as they are written today; older records have "Linf" and "L2"."""
    return re.sub(r"\bLinf\b", "ℓ∞", re.sub(r"\bL2\b", "ℓ2", text))


Heading = Annotated[Name, AfterValidator(_with_norms)]
Digest = Annotated[str, StringConstraints(strict=True, pattern="^[0-9a-f]{64}$")]
LARGEST = 2**53  # up to which every JSON reader holds whole numbers exactly
Count = Annotated[int, Strict(), Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Strict(), Field(ge=1, le=LARGEST)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
YesNo = Annotated[bool, Strict()]


def all_there(cls: Any, content: Any, info: ValidationInfo) -> Any:
    """A file holds every field: defaults are for code that makes one. For `model_validator`.

    Only what is read from a file is validated with a context.
    """
    if info.context is not None and isinstance(content, dict):
        missing = cls.__dataclass_fields__.keys() - content.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return content


def shaped(model: type[BaseModel]) -> GetPydanticSchema:
    """Annotates a `dict[str, Any]` that has to have the form of a model, and stays a dict."""

    def core(_: Any, handler: Any) -> core_schema.CoreSchema:
        def hold(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
            check(value)
            return value

        return core_schema.no_info_wrap_validator_function(
            hold,
            handler(model),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )

    return GetPydanticSchema(core)
