"""The one place that names the compiler: `@compiled` functions are ordinary Python that numba turns into machine code.

They run the same with NUMBA_DISABLE_JIT=1, only slower; tests compare the two. Integers are 64 bits wide and wrap, and
array indices are not checked: tests run the plain Python, which checks.

An `Arrays` (arrays.py) reaches compiled code as the address of its table, and `arrays.name` there becomes a view of the
memory that the table names. (Passing a tuple of arrays instead would copy every array's description at every call: with
the seventy arrays of a simulation that cost more than the simulation.)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array

from dualpath.core.arrays import MOST_DIMENSIONS, Arrays

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    made: Function = numba.njit(cache=True)(function)
    return made


class ArraysType(types.Type):
    """numba's type of an `Arrays`: which fields it has, of which types."""

    def __init__(self, name: str, fields: tuple[tuple[str, Any], ...]) -> None:
        self.fields = fields
        super().__init__(name=f"{name}_{zlib.crc32(repr(fields).encode()):08x}")

    @property
    def key(self) -> Any:
        return self.name, self.fields


@typeof_impl.register(Arrays)  # type: ignore[untyped-decorator]
def _typeof(value: Arrays, context: Any) -> ArraysType:
    if value.numba_type is None:
        fields = tuple((name, numba.typeof(getattr(value, name))) for name in value.names)
        value.numba_type = ArraysType(type(value).__name__, fields)
    found: ArraysType = value.numba_type
    return found


@register_model(ArraysType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    """The address of the table, as an integer."""

    def __init__(self, manager: Any, numba_type: ArraysType) -> None:
        super().__init__(manager, numba_type, ir.IntType(64))


@unbox(ArraysType)  # type: ignore[untyped-decorator]
def _unbox(numba_type: ArraysType, value: Any, c: Any) -> NativeValue:
    address = c.pyapi.object_getattr_string(value, "address")
    number = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    return NativeValue(number, is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


@infer_getattr
class _Attributes(AttributeTemplate):  # type: ignore[misc]
    key = ArraysType

    def generic_resolve(self, numba_type: ArraysType, name: str) -> Any:
        return dict(numba_type.fields).get(name)


@lower_getattr_generic(ArraysType)  # type: ignore[untyped-decorator]
def _attribute(context: Any, builder: Any, numba_type: ArraysType, value: Any, name: str) -> Any:
    """A view of the array that the table names: row `place` is its address, then its shape."""
    place = [field for field, _ in numba_type.fields].index(name)
    kind = numba_type.fields[place][1]
    table = builder.inttoptr(value, ir.IntType(64).as_pointer())

    def cell(column: int) -> Any:
        return builder.load(cgutils.gep_inbounds(builder, table, (1 + MOST_DIMENSIONS) * place + column))

    if isinstance(kind, ArraysType):
        return cell(0)
    item = context.get_data_type(kind.dtype)
    shape = [cell(1 + dimension) for dimension in range(kind.ndim)]
    item_bytes = context.get_constant(types.intp, context.get_abi_sizeof(item))
    strides = [item_bytes]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    view = context.make_array(kind)(context, builder)
    data = builder.inttoptr(cell(0), item.as_pointer())
    populate_array(view, data=data, shape=shape, strides=strides, itemsize=item_bytes, meminfo=None)
    return view._getvalue()
