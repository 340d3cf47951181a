"""Columns of outcomes: arrays in memory, compressed text in a record file.

The bytes of an array, zlib-compressed and base64-encoded (booleans as packed bits), keep a file
small, readable and diffable.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    Strict,
    StringConstraints,
)
from pydantic_core import core_schema

Dtype = Literal["bool", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
DTYPES: tuple[str, ...] = get_args(Dtype)
COUNTED = "counted"
"""Column that says which images a share is of, where it is not of all of them; the column beside it
then holds numbers whose mean is the share."""
BASE64 = r"^[A-Za-z0-9+/]+={0,2}$"


class StoredColumn(BaseModel):
    """An array of one value per sample: base64 of zlib-compressed little-endian values; booleans as
    packed bits, the first sample in the highest bit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    dtype: Dtype
    """Type of a value, as numpy names it."""
    n: Annotated[int, Strict(), Field(ge=0)]
    """Number of values."""
    # Not held to the pattern here: `decode` does so, in a fraction of the time.
    data: Annotated[str, StringConstraints(strict=True)] = Field(
        json_schema_extra={"contentEncoding": "base64", "pattern": BASE64}
    )
    """The compressed values in base64."""


def encode(column: NDArray[Any]) -> dict[str, Any]:
    """An array as JSON-able values, as `StoredColumn` describes them."""
    array = np.asarray(column)
    kind = array.dtype.name
    raw = (
        np.packbits(array).tobytes()
        if kind == "bool"
        else array.astype("<" + array.dtype.str[1:]).tobytes()
    )
    return {
        "dtype": kind,
        "n": int(array.size),
        "data": base64.b64encode(zlib.compress(raw, 9)).decode(),
    }


def decode(stored: StoredColumn) -> NDArray[Any]:
    """The array that was stored. Raises ValueError if it is damaged or not of its stated length."""
    kind, n = stored.dtype, stored.n
    width = 1 if kind == "bool" else np.dtype(kind).itemsize * 8
    expected = (n * width + 7) // 8
    # Bounded: a forged file cannot make us inflate more than it declares.
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(binascii.a2b_base64(stored.data, strict_mode=True), expected + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(raw) != expected:
        raise ValueError(f"{len(raw)} bytes where {expected} were declared")
    if not inflater.eof:
        raise ValueError("the compressed data end too early")
    if kind == "bool":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).view(bool)
    return np.frombuffer(raw, np.dtype(kind).newbyteorder("<")).astype(kind)


COUNT = "count"
"""Context of a validation: {COUNT: {n, …}} refuses columns of another length before they are
inflated."""


def _column_schema(_: Any, handler: Any) -> core_schema.CoreSchema:
    def take(value: Any, read: Any, info: core_schema.ValidationInfo) -> Any:
        if isinstance(value, np.ndarray):
            if value.ndim != 1 or value.dtype.name not in DTYPES:
                raise ValueError(f"a column is one array of {', '.join(DTYPES)}")
            return value
        stored: StoredColumn = read(value)
        wanted = (info.context or {}).get(COUNT)
        if wanted is not None and stored.n not in wanted:
            expected = " or ".join(map(str, sorted(wanted)))
            raise ValueError(f"{stored.n} values where {expected} were expected")
        return decode(stored)

    return core_schema.with_info_wrap_validator_function(
        take,
        handler(StoredColumn),
        serialization=core_schema.plain_serializer_function_ser_schema(encode),
    )


Column = Annotated[NDArray[Any], GetPydanticSchema(_column_schema)]
"""An array of one value per sample, as a field of a pydantic model."""
