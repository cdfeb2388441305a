"""Opens the files of a model: a .pt2 program, a TorchScript .pt, or safetensors weights for a factory's module.

Knows nothing of options, batches or backends. Runs the model's own code, so only builders and engines import it;
`flat.py` gives what is opened here one calling convention.
"""

from __future__ import annotations

import sys
import traceback
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from compiler.archive import check_torchscript
from compiler.datatypes import quiet_torchscript
from compiler.errors import LoadFailed
from compiler.factories import make_module
from compiler.pt2 import check_program
from compiler.source import WEIGHTS_NAME, Kind, find_source
from compiler.spec import Factory, Source

NAMED_KEYS = 5  # of the weights that do not fit; a whole list would hide the sentence


@dataclass(frozen=True)
class Opened:
    """A model on its device, ready for inference. `program` is there for a .pt2 only."""

    kind: Kind
    module: nn.Module
    program: ExportedProgram | None = None


def open_model(folder: Path, device: str, origin: str | None = None, factory: Factory | None = None) -> Opened:
    """The model in `folder` on `device`; errors name `origin`, the folder as its owner knows it.

    A .pt2 or .pt is opened only after its structure was found to be what torch writes (`pt2.py`, `archive.py`).

    Raises LoadFailed with the last line of the traceback and the line of model.py where it arose.
    """
    source = find_source(folder, factory=factory)
    named = Path(origin or folder) / source.files[0]
    try:
        match source.kind:
            case "pt2":
                return _open_program(folder / "model.pt2", device)
            case "torchscript":
                return _open_torchscript(folder / "model.pt", device)
            case "python":
                return _open_python(folder, device)
            case "factory":
                return _open_factory(source, device)
    except LoadFailed as error:
        raise LoadFailed(f"{named} {error}") from error
    except (Exception, SystemExit) as error:
        raise LoadFailed(f"{named} cannot be loaded: {explain(error, folder)}") from error


def explain(error: BaseException, folder: Path) -> str:
    """The real reason in one line: "KeyError: 'x' (model.py line 12)"."""
    last = [line for line in traceback.format_exception_only(error) if line.strip()]
    text = " ".join(last[-1].split()) if len(last) == 1 else " ".join(" ".join(last).split())
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder
    ]
    where = f" (model.py line {lines[-1]})" if lines else ""
    return f"{text[:600]}{where}"  # torch's own messages can fill pages


def _open_program(path: Path, device: str) -> Opened:
    # Defines the operators that quantise and dequantise in a program: without it such a file cannot be read.
    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    check_program(path)
    with warnings.catch_warnings():
        # torch's own deserialiser copies a class that it deprecates itself
        warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
        program = torch.export.load(path)
        program._guards_code = []  # text of the file, which program.module() would run; a batch is checked elsewhere
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        # Guards would refuse batch 1 of a program that was exported at 2; verification decides that by running it.
        module = program.module(check_guards=False)
    return Opened("pt2", module, program)


def _open_torchscript(path: Path, device: str) -> Opened:
    check_torchscript(path)
    with quiet_torchscript():
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return Opened("torchscript", module.eval())


def _open_python(folder: Path, device: str) -> Opened:
    path = folder / "model.py"
    code = types.ModuleType(f"torchere_model_{abs(hash(path))}")  # an engine holds several models
    code.__file__ = str(path)
    sys.modules[code.__name__] = code  # dataclasses and pickle look a class's module up there
    # Not through importlib: that would write a __pycache__ into an artifact.
    exec(compile(path.read_text(), str(path), "exec"), code.__dict__)
    factory = getattr(code, "create_model", None)
    if not callable(factory):
        raise LoadFailed("does not define create_model(): add `def create_model() -> torch.nn.Module`")
    module = factory()
    if not isinstance(module, nn.Module):
        raise LoadFailed(f"must return a torch.nn.Module from create_model(), not {type(module).__name__}")
    if (folder / WEIGHTS_NAME).is_file():
        _fill_weights(module, folder / WEIGHTS_NAME)
    return Opened("python", module.eval().requires_grad_(False).to(device))


def _open_factory(source: Source, device: str) -> Opened:
    assert source.factory is not None, "find_source gives this kind to a model with a factory"
    module = make_module(source.factory)
    _fill_weights(module, source.folder / WEIGHTS_NAME)
    return Opened("factory", module.eval().requires_grad_(False).to(device))


def _fill_weights(module: nn.Module, path: Path) -> None:
    from safetensors.torch import load_model

    try:
        missing, unexpected = load_model(module, path, strict=False)
    except RuntimeError as error:  # torch names the parameters whose shapes differ
        raise LoadFailed(f"does not fit {WEIGHTS_NAME}: {' '.join(str(error).split())[:600]}") from error
    known = module.state_dict()
    unexpected = [name for name in unexpected if name not in known]  # a second name of a tensor that is shared
    if missing or unexpected:
        lacks = f"lacks {_name_some(missing)}" if missing else ""
        extra = f"has {_name_some(unexpected)}, which the module does not" if unexpected else ""
        raise LoadFailed(f"does not fit {WEIGHTS_NAME}: it {' and '.join(filter(None, (lacks, extra)))}")


def _name_some(keys: object) -> str:
    names = sorted(str(key) for key in keys) if isinstance(keys, list | set | tuple) else [str(keys)]
    more = f" and {len(names) - NAMED_KEYS} more" if len(names) > NAMED_KEYS else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED_KEYS]) + more
