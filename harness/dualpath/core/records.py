"""Types of the arrays that compiled code works on."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Records: TypeAlias = Any  # a one-dimensional np.recarray: records[i].field; numpy's type cannot say which fields
Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


def records(dtype: np.dtype[np.void], count: int) -> Records:
    """Zeroed records whose fields are attributes."""
    return np.zeros(count, dtype).view(np.recarray)
