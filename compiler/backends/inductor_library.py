"""AOTInductor's shared library, called by its C interface: other threads of Python run while it computes.

torch's own loader holds Python's global lock during the call, so that a batch of one model stops everything else in its
process; and it parses the structure of its arguments at every call. `ctypes` lets go of the lock. What is called is
declared in torch/csrc/inductor/aoti_runtime/interface.h.

For processors: the call for a GPU returns before it has computed. `inductor.py` decides.
"""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import tempfile
import weakref
import zipfile
from ctypes import byref, c_char_p, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compiler.backends.closable import make_closable

PREFIX = "AOTInductorModelContainer"
ARGUMENTS = {  # all return 0 where they succeed
    "CreateWithDevice": (c_void_p, c_size_t, c_char_p, c_char_p),  # where the handle goes, models, device, cubins
    "GetNumInputs": (c_void_p, c_void_p),
    "GetNumOutputs": (c_void_p, c_void_p),
    "Run": (c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p),  # takes the inputs' handles over
    "Delete": (c_void_p,),
}
LAST_ERROR = "AOTInductorGetLastError"
OTHERS_NODES = ".wrapper.json"  # operators that the library has not in itself: torch's loader brings what calls them

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = c_void_p, (ctypes.py_object, c_char_p)
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, (c_void_p, c_char_p, c_void_p)
_handles_of = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
_tensors_of = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs


class Library(NamedTuple):
    """What is open, and its functions by their names without the prefix."""

    opened: ctypes.CDLL
    functions: dict[str, Any]

    def reason(self) -> str:
        """Why this thread's last call failed, to end a sentence. torch 2.13 tells; all write it to stderr."""
        tell, message = getattr(self.opened, LAST_ERROR, None), c_char_p()
        if tell is None or tell(byref(message)) or not message.value:
            return "; the reason is in the log"
        return ": " + message.value.decode(errors="replace").partition("\n")[0]


class CompiledLibrary:
    """One instance of a package's library: tensors on the processor -> new ones; by one thread at a time."""

    def __init__(self, package: Path) -> None:
        """Raises RuntimeError where the library does not fit this machine."""
        # Extracted for each instance, and gone as soon as it is open: what is mapped stays.
        with tempfile.TemporaryDirectory(prefix="torchere-aoti-") as folder:
            library = _open(_extract(package, Path(folder)))
            functions, container = library.functions, c_void_p()
            if functions["CreateWithDevice"](byref(container), 1, b"cpu", None):
                raise RuntimeError(f"{package.name}: its library could not be set up{library.reason()}")
        weakref.finalize(self, _close, library, container).atexit = False
        self._run, self._container, self._reason = functions["Run"], container, library.reason
        self._inputs = _count(functions["GetNumInputs"], container)
        self._outputs = _count(functions["GetNumOutputs"], container)
        self._input_handles, self._output_handles = c_void_p * self._inputs, c_void_p * self._outputs

    def __repr__(self) -> str:
        return f"<CompiledLibrary {self._inputs} -> {self._outputs}>"

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Raises RuntimeError where the library refuses them."""
        if len(inputs) != self._inputs:
            raise RuntimeError(f"{len(inputs)} tensors for a compiled model that takes {self._inputs}")
        given = self._input_handles(*[_pointer_of(handle, None) for handle in _handles_of(list(inputs))])
        made = self._output_handles()
        if self._run(self._container, given, self._inputs, made, self._outputs, None, None):
            raise RuntimeError(f"the compiled model failed{self._reason()}")
        return tuple(_tensors_of([_capsule_of(handle, None, None) for handle in made]))


def is_callable(package: Path) -> bool:
    """Whether all that the library calls is in it or in torch's C interface. Raises RuntimeError where it is none."""
    with _archive(package) as archive:
        return not any(name.endswith(OTHERS_NODES) for name in archive.namelist())


def _archive(package: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(package)
    except zipfile.BadZipFile as error:
        reason = f"{package.name} is no package of AOTInductor: {error}: it is to be compiled again"
        raise RuntimeError(reason) from error


def _extract(package: Path, folder: Path) -> Path:
    with _archive(package) as archive:
        libraries = [entry for entry in archive.infolist() if entry.filename.endswith(".so")]
        if len(libraries) != 1:
            raise RuntimeError(f"{package.name} holds {len(libraries)} libraries: it is to be compiled again")
        target = folder / "model.so"
        with archive.open(libraries[0]) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    make_closable(target)
    return target


def _open(path: Path) -> Library:
    try:
        opened = ctypes.CDLL(str(path))
        functions = {name: getattr(opened, PREFIX + name) for name in ARGUMENTS}
    except (OSError, AttributeError) as error:
        raise RuntimeError(f"the compiled library cannot be opened: {error}") from error
    for name, arguments in ARGUMENTS.items():
        functions[name].argtypes, functions[name].restype = arguments, c_int32
    return Library(opened, functions)


def _close(library: Library, container: c_void_p) -> None:
    library.functions["Delete"](container)
    _ctypes.dlclose(library.opened._handle)  # else all that was ever loaded stays mapped


def _count(function: Any, container: c_void_p) -> int:
    count = c_size_t()
    if function(container, byref(count)):
        raise RuntimeError("the compiled library does not tell how many tensors it takes")
    return count.value
