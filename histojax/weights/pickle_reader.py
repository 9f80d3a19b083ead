"""Read the pickles inside PyTorch files without running anything they name.

A pickle is a program: its opcodes may import and call any function. This reader interprets the opcodes itself.
Names from a short list (ordered dicts, torch tensors, numpy scalars and arrays) are built by functions of this
module; every other name becomes an inert `Placeholder` that keeps its arguments and state and does nothing.
Work is bounded, so that small files cannot claim unbounded memory or time.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import numpy as np

from histojax.common.errors import UserError

BUDGET = 60_000_000  # opcodes, list items and copied bytes of one pickle
MAX_LINE = 1 << 20
MAX_NAMED = 1000
# types of storages, tensors, devices and numpy scalars: nothing in them can be run
_HARMLESS = re.compile(
    r"torch\.(\w*Storage|storage\.\w+|\w*(float|int|complex|bool)\w*|strided|device|nn\.parameter\.Parameter|Tensor"
    r"|_utils\._rebuild_\w+|serialization\._get_layout)|numpy\.(dtype|ndarray|_?core\.multiarray\.\w+)"
)
# what runs commands, code or downloads; network code, optimiser states and settings name none of these
_HOSTILE = re.compile(
    r"(os|posix|nt|_?posixsubprocess|subprocess|pty|shutil|runpy|importlib|imp|ctypes|socket|webbrowser|code|timeit|pdb"
    r"|urllib|requests|pip)\..+|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__|input|breakpoint)"
)
_MARK = object()
_SCALARS = (str, bytes, int, float, complex, bool, type(None))


@dataclass(eq=False)
class Placeholder:
    """An object of a class that is not built: its name, and whatever the pickle wanted to give to it."""

    name: str
    args: Any = ()
    state: Any = None
    items: list = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Bounded:
    """A binary file that refuses to read past `end`, for the parser of pickletools."""

    def __init__(self, file: BinaryIO, end: int):
        self._file, self._end = file, end

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        if size < 0 or size > self._end - self._file.tell():
            raise ValueError("the data ends inside a value")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline(MAX_LINE)


def load_pickle(
    file: BinaryIO,
    end: int,
    persistent: Callable[[Any], Any] | None = None,
    tensor: Any = None,
    named: set[str] | None = None,
) -> Any:
    """Return the object of the pickle at the file's position, which is left behind its last opcode.

    Args:
        file: seekable binary file.
        end: no byte from here on is read.
        persistent: makes an object of a persistent id (torch: a storage).
        tensor: `f(storage, offset, size, stride, dtype_name | None)`; makes a tensor, or raises UserError.
        named: gets the names that the pickle wants to import and that are no part of torch's own format.

    Raises:
        UserError: malformed, truncated, or more work than `BUDGET`.
    """
    machine = _Machine(persistent, tensor, set() if named is None else named)
    try:
        for opcode, argument, _ in pickletools.genops(cast(Any, Bounded(file, end))):
            machine.spend(1)
            if opcode.name == "STOP":
                return machine.result()
            machine.run(opcode.name, argument)
    except UserError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise UserError(f"damaged or truncated pickle ({error})") from None
    raise UserError("damaged or truncated pickle (no end)")


def refuse_hostile(names: set[str]) -> None:
    """Raise UserError if a pickle names a function that runs commands, code or downloads; it was not run here."""
    hostile = sorted(name for name in names if _HOSTILE.fullmatch(name))
    if hostile:
        raise UserError(
            f"malicious: loaded by PyTorch it could run {', '.join(hostile[:3])}; nothing was run here. Delete it and "
            "get the weights from their authors"
        )


class _Machine:
    """Stack machine of the pickle opcodes up to protocol 5, on plain containers and placeholders."""

    def __init__(self, persistent: Callable[[Any], Any] | None, tensor: Any, named: set[str]):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = BUDGET
        self.persistent, self.tensor, self.named = persistent, tensor, named

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise UserError("the pickle asks for more work than any weight file needs; it may be malicious")

    def run(self, name: str, argument: Any) -> None:
        """Do what an opcode says: push something, or one of the changes of `_CHANGES`."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in _PUSHES:
            self.stack.append(_PUSHES[name](self, argument))
        elif name in _CHANGES:
            _CHANGES[name](self, argument)
        else:
            raise UserError(f"the pickle uses opcode {name}, which no weight file needs")

    def result(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("no value at the end")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """Return what lies above the last mark, which is taken away with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # IndexError below the bottom: malformed
            at -= 1
            if at < 0:
                raise ValueError("no mark on the stack")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        self.spend(len(items))
        return items

    def extend(self, items: list[Any]) -> None:
        """Put items into the list or set on the stack."""
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(_key(item) for item in items)
        elif isinstance(target, (list, Placeholder)):
            (target if isinstance(target, list) else target.items).extend(items)
        else:
            raise ValueError(f"items for a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on the stack."""
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.items.extend(items)
        elif isinstance(target, dict):
            target |= _paired(items)
        else:
            raise ValueError(f"keys for a {type(target).__name__}")

    def name(self, name: str) -> Placeholder:
        """Return what stands for an imported name; it is noted unless it belongs to torch's own format."""
        if name not in _BUILDERS and not _HARMLESS.fullmatch(name) and len(self.named) < MAX_NAMED:
            self.named.add(name[:80])
        return Placeholder(name)

    def name_on_stack(self) -> Placeholder:
        """Return the same of a module and a name that lie on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is not text")
        return self.name(f"{module}.{name}")

    def call(self, function: Any, args: Any) -> Any:
        """Return what one of the known functions makes of its arguments, else an inert placeholder."""
        name = function.name if isinstance(function, Placeholder) else type(function).__name__
        if not isinstance(args, tuple):
            raise ValueError(f"arguments of {name} are not a tuple")
        build = _BUILDERS.get(name)
        return build(self, args) if build else Placeholder(name, args)

    def call_from_stack(self) -> Any:
        args, function = self.stack.pop(), self.stack.pop()
        return self.call(function, args)

    def find(self, pid: Any) -> Any:
        """Return the object of a persistent id."""
        if self.persistent is None:
            raise ValueError("a persistent id in a plain pickle")
        return self.persistent(pid)

    def set_state(self, state: Any) -> None:
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].state = state


def _rebuild_tensor(machine: _Machine, args: tuple) -> Any:
    """torch._utils._rebuild_tensor[_v2](storage, offset, size, stride, ...)."""
    return machine.tensor(*args[:4], None) if machine.tensor else Placeholder("torch.Tensor")


def _rebuild_tensor_v3(machine: _Machine, args: tuple) -> Any:
    """The same with an untyped storage; the dtype is the seventh argument."""
    return machine.tensor(*args[:4], getattr(args[6], "name", "")) if machine.tensor else Placeholder("torch.Tensor")


def _rebuild_from_type(machine: _Machine, args: tuple) -> Any:
    """torch._tensor._rebuild_from_type_v2(function, type, arguments, state): a tensor with attributes."""
    return machine.call(args[0], args[2])


def _first(_: _Machine, args: tuple) -> Any:
    return args[0]


def _dict(machine: _Machine, args: tuple) -> dict:
    pairs = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    machine.spend(len(pairs))
    return {_key(pair[0]): pair[1] for pair in pairs}


def _sequence(kind: type) -> Callable[[_Machine, tuple], Any]:
    def build(machine: _Machine, args: tuple) -> Any:
        items = args[0] if args and isinstance(args[0], (list, tuple, set)) else ()
        machine.spend(len(items))
        return kind(map(_key, items)) if kind is set else kind(items)

    return build


def _encode(machine: _Machine, args: tuple) -> bytes:
    """_codecs.encode(text, "latin1"): how protocol 2 stores bytes."""
    if not isinstance(args[0], str) or args[1:] not in ((), ("latin1",), ("latin-1",)):
        raise ValueError("bytes in an unknown encoding")
    machine.spend(len(args[0]))
    return args[0].encode("latin-1")


def numpy_value(value: Any) -> np.ndarray | None:
    """Return the array of a pickled numpy array or scalar of a number type, else None."""
    if not isinstance(value, Placeholder):
        return None
    try:
        if value.name in _RECONSTRUCT and isinstance(value.state, tuple):
            _, shape, dtype, fortran, data = value.state
            return np.frombuffer(data, _dtype(dtype)).reshape(shape, order="F" if fortran else "C")
        if value.name in _SCALAR:
            return np.frombuffer(value.args[1], _dtype(value.args[0])).reshape(())
    except (ValueError, TypeError, IndexError):
        return None
    return None


def _dtype(value: Any) -> np.dtype:
    """Return the numpy dtype of a pickled numpy.dtype, number types only."""
    text, order = value.args[0], value.state[1] if value.state else "="
    if value.name != "numpy.dtype" or not re.fullmatch(r"[<>|=]?[biufc][0-9]{1,2}", text):
        raise ValueError(f"not a number type: {text}")
    return np.dtype(text).newbyteorder(order if order in "<>" else "=")


def _paired(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2])}


def _key(key: Any) -> Any:
    """Return a dict key that hashes quickly: scalars and short flat tuples of them, else a placeholder."""
    if isinstance(key, (*_SCALARS, Placeholder)):
        return key
    if isinstance(key, tuple) and len(key) <= 64 and all(isinstance(part, _SCALARS) for part in key):
        return key
    return Placeholder("composite key", ())


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
# opcodes that push what they make
_PUSHES: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: _MARK,
    "DUP": lambda machine, _: machine.stack[-1],
    "TUPLE": lambda machine, _: tuple(machine.pop_mark()),
    "LIST": lambda machine, _: machine.pop_mark(),
    "DICT": lambda machine, _: _paired(machine.pop_mark()),
    "FROZENSET": lambda machine, _: set(map(_key, machine.pop_mark())),
    "GLOBAL": lambda machine, name: machine.name(name.replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: machine.name_on_stack(),
    "INST": lambda machine, name: machine.call(machine.name(name.replace(" ", ".")), tuple(machine.pop_mark())),
    "OBJ": lambda machine, _: (lambda function, *args: machine.call(function, args))(*machine.pop_mark()),
    "BINPERSID": lambda machine, _: machine.find(machine.stack.pop()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, at: machine.memo[at]),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call_from_stack()),
    "NEWOBJ_EX": lambda machine, _: (machine.stack.pop(), machine.call_from_stack())[1],
}
# opcodes that change what is there
_CHANGES: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, at: machine.memo.__setitem__(at, machine.stack[-1])
    ),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.pop_mark())),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "BUILD": lambda machine, _: machine.set_state(machine.stack.pop()),
}
_LITERALS = set(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_SCALAR = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
_BUILDERS: dict[str, Callable[[_Machine, tuple], Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _sequence(tuple),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda machine, args: {},
    "_codecs.encode": _encode,
}
for _module in ("builtins", "__builtin__"):
    _BUILDERS |= {f"{_module}.{kind.__name__}": _sequence(kind) for kind in (set, list, tuple)}
    _BUILDERS[f"{_module}.dict"] = _dict
    _BUILDERS[f"{_module}.frozenset"] = _sequence(set)
