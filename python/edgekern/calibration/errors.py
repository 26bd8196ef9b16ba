"""What calibration data can lack, in the words of whoever asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

UNREACHED = "the calibration data never reached it"
"""Why a layer was left alone."""


class DataError(ValueError):
    """Calibration data that are no use. Users see it as the error of what they called."""


@contextmanager
def data_errors_as(error: type[ValueError]) -> Iterator[None]:
    """Inside, or in a function decorated with it, a ``DataError`` becomes an ``error`` of the same words."""
    try:
        yield
    except DataError as lacking:
        raise error(str(lacking)) from None
