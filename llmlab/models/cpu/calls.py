"""A handler of XLA's foreign function interface whose work is a numba loop.

XLA hands a handler one C struct, the call frame (xla/ffi/api/c_api.h, which jaxlib ships). Its fields are all 8 bytes
wide, so it is read here as an array of words; the interface promises that they stay where they are within one major
version. The handler holds no lock of Python's: XLA's own threads call it side by side.
"""

from __future__ import annotations

import ctypes
import inspect
from typing import Any

import jax
import numpy as np
from numba import carray, cfunc, float32, int8, int32, int64, intp, types
from numba.extending import intrinsic

from llmlab.models.cpu.loops import compiled, products

__all__ = ["TARGET", "register"]

#: The name by which a program calls the handler. It stands in programs that are kept on disk: new words, new name.
TARGET = "llmlab_int8_products_1"

# Words of the call frame, and of what it points to.
_EXTENSION, _ARGUMENTS, _RESULTS, _FRAME = 1, 9, 14, 18
_EXTENSION_TYPE, _METADATA = 1, 3
_VERSION, _DATA, _DIMENSIONS = 3, 3, 5
#: The type of the extension by which XLA asks a handler for its version, and the answer: 0.1, in two halves.
_ASKS_FOR_METADATA, _ANSWER = 1, 1 << 32


@intrinsic
def _pointer(context: Any, address: Any, dtype: Any) -> Any:
    """An address as a pointer to values of a dtype."""
    pointer = types.CPointer(dtype.instance_type if hasattr(dtype, "instance_type") else dtype.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.intp, dtype), generate


@compiled
def _words(address, count):  # type: ignore[no-untyped-def]
    return carray(_pointer(address, int64), (count,))


@compiled
def _handle(frame):  # type: ignore[no-untyped-def]
    """Inputs: x [B, I], values [O, I], scale [O], and the first output that is wanted [1]; the result is [B, P]."""
    call = _words(frame, _FRAME)
    if call[_EXTENSION] != 0:
        extension = _words(call[_EXTENSION], 4)
        if extension[_EXTENSION_TYPE] & 0xFFFFFFFF == _ASKS_FOR_METADATA:
            _words(extension[_METADATA], 4)[_VERSION] = _ANSWER
            return 0
    arguments, results = _words(call[_ARGUMENTS], 4), _words(call[_RESULTS], 1)
    x, values, scale = _words(arguments[0], 6), _words(arguments[1], 6), _words(arguments[2], 6)
    first, out = _words(arguments[3], 6), _words(results[0], 6)
    rows, inputs = _words(x[_DIMENSIONS], 2)[0], _words(x[_DIMENSIONS], 2)[1]
    outputs, wanted = _words(values[_DIMENSIONS], 2)[0], _words(out[_DIMENSIONS], 2)[1]
    start = np.int64(carray(_pointer(first[_DATA], int32), (1,))[0])
    products(
        carray(_pointer(x[_DATA], float32), (rows, inputs)),
        carray(_pointer(values[_DATA], int8), (outputs, inputs))[start : start + wanted],
        carray(_pointer(scale[_DATA], float32), (outputs,))[start : start + wanted],
        carray(_pointer(out[_DATA], float32), (rows, wanted)),
    )
    return 0


def register() -> None:
    """Compiles the handler, or takes it from disk, and tells XLA of it."""

    def handler(frame):  # type: ignore[no-untyped-def]
        return _handle(frame)

    found = cfunc(intp(intp), nopython=True)(inspect.unwrap(handler))
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    jax.ffi.register_ffi_target(TARGET, capsule(found.address, None, None), platform="cpu")
    _kept.append(found)


#: What XLA has the address of must not be freed.
_kept: list[Any] = []
