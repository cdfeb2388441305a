"""Torch-TensorRT: a hybrid of TensorRT engines and PyTorch subgraphs, saved as one TorchScript file for each shape.

Knows how to call the compiler, nothing of how precisions are made: what it is given has them already. The variant
"dynamic" is one module for every batch size, "static" one for each bucket: engines for one size are faster and larger.
`hybrid_script.py` writes the files, `tensorrt_library.py` finds the libraries, `../hybrid.py` draws the map.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from compiler.backends.hybrid_script import PROGRAM_NAME, SCRIPT_NAME, make_contiguous, save_hybrid
from compiler.backends.hybrid_sizes import drop_needless_sizes, read_sizes_again
from compiler.backends.tensorrt_compile import Order, convert, divide, draw_map, find_unbounded
from compiler.backends.tensorrt_library import import_torch_tensorrt, load_runtime
from compiler.datatypes import quiet_torchscript
from compiler.errors import BuildFailed, CompileError, Unsupported
from compiler.jobs import Built, Interface, Place
from compiler.limits import find_refusal
from compiler.load import Opened
from compiler.lower import example_inputs, lower
from compiler.quantize.modelopt import exporting, is_quantized
from compiler.spec import Rung
from compiler.tools import find_tensorrt

STATIC = "static"

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Part:
    """One module to build: `rows` of the example it is tuned for; `is_fixed`: it takes no other number of rows.

    Of several the smallest `is_mapped`: they are divided alike.
    """

    rows: int
    is_fixed: bool
    is_mapped: bool = True

    @property
    def folder(self) -> str:
        return f"batch_{self.rows}" if self.is_fixed else "any_batch"


def build(opened: Opened, interface: Interface, place: Place, out: Path, rung: Rung) -> Built:
    """Write one folder for each module into `out`. Raises ToolMissing, Unsupported, LowerFailed or BuildFailed."""
    refusal = find_refusal(rung.precision, find_tensorrt() or "", torch.cuda.get_device_capability(place.device))
    if refusal:
        raise Unsupported(refusal)
    quantized = is_quantized(opened)
    compiler = import_torch_tensorrt(is_quantized=quantized)
    built: list[Built] = []
    failed: dict[int, str] = {}
    with torch.cuda.device(place.device), exporting(quantized):
        for part in plan_parts(interface, STATIC in rung.variant.split()):
            try:
                built.append(_build_part(compiler, opened, interface, place, out / part.folder, rung, part))
            except CompileError as error:
                if not part.is_fixed:
                    raise
                failed[part.rows] = str(error)
                shutil.rmtree(out / part.folder, ignore_errors=True)
        if failed:
            part = widest(interface)
            built.append(_build_part(compiler, opened, interface, place, out / part.folder, rung, part))
    hows = [f"batch size {rows} has no module of its own: {reason}" for rows, reason in failed.items()]
    hows += dict.fromkeys(one.how for one in built if one.how)
    hybrid = next((one.hybrid for one in reversed(built) if one.hybrid is not None), None)
    return Built("; ".join(hows), hybrid, built[-1].ignored)


def load(folder: Path, interface: Interface, device: str) -> Run:
    """Raises ToolMissing, BuildFailed, or RuntimeError where the engines do not fit this GPU or this TensorRT."""
    load_runtime()
    modules: dict[int, Run] = {}  # by rows; 0 takes any number
    with torch.cuda.device(device):
        for path in sorted(folder.iterdir()):
            rows = path.name.removeprefix("batch_")
            modules[int(rows) if rows.isdigit() else 0] = _load_part(path, device)
    if not interface.max_batch_size:
        return next(iter(modules.values()))
    batched = tuple(spec.shape[:1] == (-1,) for spec in interface.outputs)
    fixed = tuple(sorted(rows for rows in modules if rows))

    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = len(inputs[0])
        if rows in modules:
            return modules[rows](inputs)
        if 0 in modules:
            return modules[0](inputs)
        wide = next((size for size in fixed if size >= rows), None)
        if wide is None:
            raise BuildFailed(f"a batch of {rows} is larger than the largest engine, {fixed[-1]}")
        outputs = modules[wide](tuple(pad(tensor, wide) for tensor in inputs))
        return tuple(out[:rows] if cut else out for out, cut in zip(outputs, batched, strict=True))

    return run


def plan_parts(interface: Interface, is_static: bool) -> list[Part]:
    """The modules of a variant, the last for the smallest batch."""
    if not is_static:
        return [widest(interface)]
    sizes = interface.buckets if interface.max_batch_size else (0,)
    return [Part(rows, is_fixed=True, is_mapped=rows == min(sizes)) for rows in sorted(sizes, reverse=True)]


def widest(interface: Interface) -> Part:
    """The module for any batch, tuned for the largest; one row cannot vary."""
    most = interface.max_batch_size
    return Part(most, is_fixed=most < 2)


def pad(tensor: Tensor, rows: int) -> Tensor:
    """`rows` rows, the last one repeated: its values are legal, where zeros need not be."""
    return torch.cat((tensor, tensor[-1:].expand(rows - len(tensor), *tensor.shape[1:])))


def _build_part(
    compiler: Any, opened: Opened, interface: Interface, place: Place, folder: Path, rung: Rung, part: Part
) -> Built:
    program = lower(opened, interface, place.device, part.rows, is_fixed=part.is_fixed)
    unbounded = find_unbounded(program)
    if unbounded:
        raise BuildFailed(f"{unbounded} has no upper limit; TensorRT needs one: export a .pt2 with Dim(max=...)")
    drop_needless_sizes(program)
    example = example_inputs(interface, place.device, part.rows)
    order = Order(compiler, program, example, rung, place.device)
    plan = divide(order) if part.is_mapped or program.range_constraints else None
    module, ignored = convert(order)
    hybrid = None
    if plan is not None:
        hybrid = draw_map(order, plan, module)
        read_sizes_again(module, plan)
    folder.mkdir()
    how = save_hybrid(
        make_contiguous(module), example, folder, lambda path: _save_program(module, interface, place, part, path)
    )
    return Built(how, hybrid, ignored)


def _save_program(module: fx.GraphModule, interface: Interface, place: Place, part: Part, path: Path) -> None:
    """Exported again by ourselves: torch_tensorrt.save fixes the sizes of its example."""
    program = lower(Opened("python", module), interface, place.device, part.rows, is_fixed=part.is_fixed)
    torch.export.save(program, path)


def _load_part(folder: Path, device: str) -> Run:
    if (folder / SCRIPT_NAME).exists():
        with quiet_torchscript():
            # Else the fuser compiles a kernel for each of the first shapes, under traffic.
            torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
            script = torch.jit.load(str(folder / SCRIPT_NAME), map_location=device)  # type: ignore[no-untyped-call]
        return lambda inputs: _as_tuple(script(*inputs))
    module = torch.export.load(folder / PROGRAM_NAME).module(check_guards=False)
    return lambda inputs: _as_tuple(module(*inputs))


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
