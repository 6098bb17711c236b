"""Columns of any type as text: equal ids are equal texts whatever file they come from."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_EXACT = {pa.float16(): 1 << 11, pa.float32(): 1 << 24, pa.float64(): 1 << 53}
"""Below this a type of floats holds every whole number, so none was rounded on the way."""


def as_text(column: pa.Array, where: str, *, numbers: Literal["whole", "any"]) -> pa.Array:
    """The column as valid UTF-8 strings, null where it is null or NaN; a whole number is its digits, whatever its type.

    Raises ValueError, opening with `where`, for bytes that are not UTF-8, for lists and the like, and under "whole" for
    a number with a fraction or so large that its type may have rounded it.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        return _floats_as_text(column, where, numbers)
    try:
        if pa.types.is_decimal(column.type) and numbers == "whole":
            column = column.cast(pa.int64())
        text = column.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowNotImplementedError:
        raise ValueError(f"{where} holds {column.type}, allowed are text and whole numbers") from None
    except pa.ArrowInvalid:
        if pa.types.is_decimal(column.type):
            raise ValueError(
                f"{where} holds {column.type} with a fraction or beyond 64 bits, allowed are text and whole numbers"
            ) from None
        raise ValueError(f"{where} holds bytes that are not UTF-8 text") from None
    return text


def array_as_text(values: np.ndarray, where: str) -> pa.Array:
    """Text, UTF-8 bytes or whole numbers [rows] of either byte order as strings.

    Raises ValueError, opening with `where`, for text that is not UTF-8, for other numbers and other types.
    """
    if values.dtype.kind in "iuf" and values.dtype.itemsize <= 8:
        native = pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))
        return as_text(native, where, numbers="whole")
    if values.dtype.kind not in "SU":
        raise ValueError(f"{where} holds {values.dtype}, allowed are text and whole numbers")
    try:
        text = pa.array((np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values).tolist(), pa.string())
        text.validate(full=True)  # numpy holds numbers that are no characters
    except (UnicodeError, pa.ArrowInvalid, SystemError):  # the last for numbers beyond all characters
        raise ValueError(f"{where} holds bytes that are not UTF-8 text") from None
    return text


def _floats_as_text(column: pa.Array, where: str, numbers: Literal["whole", "any"]) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    given = ~np.isnan(values)
    whole = given & (np.abs(values) < _EXACT[column.type]) & (values == np.trunc(values))
    digits = pa.array(np.where(whole, values, 0).astype(np.int64), mask=~whole).cast(pa.string())
    other = np.flatnonzero(given & ~whole)
    if not len(other):
        return digits
    if numbers == "whole":
        raise ValueError(
            f"{where} holds the number {float(values[other[0]])!r} as {column.type}, allowed are text, integers and "
            f"whole numbers below {_EXACT[column.type]}"
        )
    return pc.coalesce(digits, pa.array(values, mask=~given).cast(pa.string()))
