"""Named arrays that compiled functions take as one argument."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_DIMENSIONS = 3


class Arrays:
    """A subclass declares its fields: numpy arrays, or Arrays again. In Python they are plain attributes.

    `put` replaces a field by one of the same type and dimensions, of any size; what is compiled sees it at once.
    """

    def __init__(self, **fields: Any) -> None:
        self.names = tuple(fields)
        self.numba_type: Any = None
        self._table = np.zeros((len(fields), 1 + MOST_DIMENSIONS), np.int64)  # address, then shape
        self.put(**fields)

    @property
    def address(self) -> int:
        """Of the table, for compiled code."""
        return self._table.ctypes.data

    def put(self, **fields: Any) -> None:
        for name, value in fields.items():
            row = self._table[self.names.index(name)]
            if isinstance(value, Arrays):
                row[0] = value.address
            else:
                assert value.flags.c_contiguous
                row[0], row[1 : 1 + value.ndim] = value.ctypes.data, value.shape
            setattr(self, name, value)
