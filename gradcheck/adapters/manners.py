"""What the audits of all frameworks have in common: contents compared, dtypes compared."""

import numpy as np

from gradcheck.problem import EPSILON, Array, Arrays, Deed

__all__ = ["narrowed", "same"]


def same(before: Array, after: Array) -> bool:
    """Return whether two arrays have the same contents; NaN is NaN."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    return np.array_equal(before, after, equal_nan=before.dtype.kind in "fc")


def narrowed(path: str, got: str, wanted: str, values: Arrays) -> list[Deed]:
    """Return what is to be said of a gradient of dtype `got` for a leaf of dtype `wanted`.

    One of fewer digits is wrong, unless `values`, the outputs, have no more of them either: then
    the whole target computes in the narrower dtype on purpose.
    """
    if got == wanted:
        return []
    what = f"its gradient is returned in {got}, the leaf is {wanted}"
    if ("complex" in got) != ("complex" in wanted):
        return [Deed(path=path, what=what)]
    is_narrower = EPSILON.get(got, 0.0) > EPSILON[wanted]
    return [Deed(path=path, what=what, is_wrong=is_narrower and not _fit(values, got))]


def _fit(values: Arrays, dtype: str) -> bool:
    """Whether all of `values` are numbers of the narrower `dtype`."""
    narrow = {"complex64": np.complex64, "float32": np.float32}.get(dtype, np.float16)
    with np.errstate(over="ignore"):
        return all(same(value, value.astype(narrow).astype(value.dtype)) for value in values)
