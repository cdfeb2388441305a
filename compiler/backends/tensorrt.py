"""Torch-TensorRT: a hybrid of TensorRT engines and PyTorch subgraphs, saved as one TorchScript file for each shape.

Knows how to call the compiler, nothing of how precisions are made: what it is given has them already. The variant
"dynamic" is one module for every batch size, "static" one for each bucket: engines for one size are faster and larger.
`hybrid_script.py` writes the files, `tensorrt_library.py` finds the libraries, `../hybrid.py` draws the map.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._sympy.numbers import int_oo

from compiler.backends.hybrid_script import PROGRAM_NAME, SCRIPT_NAME, engine_calls, make_contiguous, save_hybrid
from compiler.backends.hybrid_sizes import drop_needless_sizes, read_sizes_again
from compiler.backends.tensorrt_library import import_torch_tensorrt, load_runtime
from compiler.datatypes import quiet_torchscript
from compiler.errors import BuildFailed, CompileError, Unsupported
from compiler.hybrid import explain, is_operator, map_hybrid
from compiler.jobs import Built, Interface, Place
from compiler.limits import find_refusal
from compiler.load import Opened
from compiler.lower import example_inputs, lower
from compiler.quantize.modelopt import exporting, is_quantized
from compiler.spec import Rung
from compiler.tools import find_tensorrt

STATIC, SPARSE = "static", "2:4"
SMALLEST_BLOCK = 5  # operators; Torch-TensorRT's own default: a smaller engine costs more at its borders than it saves

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Part:
    """One module to build: `rows` of the example it is tuned for; `is_fixed`: it takes no other number of rows."""

    rows: int
    is_fixed: bool

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
                built.append(_build_part(compiler, opened, interface, place, out, rung, part))
            except CompileError as error:
                if not part.is_fixed:
                    raise
                failed[part.rows] = str(error)
        if failed:
            built.append(_build_part(compiler, opened, interface, place, out, rung, widest(interface)))
    hows = [f"batch size {rows} has no module of its own: {reason}" for rows, reason in failed.items()]
    hows += dict.fromkeys(one.how for one in built if one.how)
    return Built("; ".join(hows), built[-1].hybrid, built[-1].ignored)


def load(folder: Path, interface: Interface, device: str) -> Run:
    """Raises ToolMissing, BuildFailed, or RuntimeError where the engines do not fit this GPU or this TensorRT."""
    load_runtime()
    modules: dict[int, Run] = {}  # by rows; 0 takes any number
    with torch.cuda.device(device):
        for path in sorted(folder.iterdir()):
            modules[int(path.name.partition("_")[2]) if path.name.startswith("batch_") else 0] = _load_part(
                path, device
            )
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
    return [Part(rows, is_fixed=True) for rows in sorted(sizes, reverse=True)]


def widest(interface: Interface) -> Part:
    """The module for any batch, tuned for the largest; one row cannot vary."""
    most = interface.max_batch_size
    return Part(most, is_fixed=most < 2)


def pad(tensor: Tensor, rows: int) -> Tensor:
    """`rows` rows, the last one repeated: its values are legal, where zeros need not be."""
    return torch.cat((tensor, tensor[-1:].expand(rows - len(tensor), *tensor.shape[1:])))


def choose_block_size(operators: int) -> int:
    """The fewest operators that an engine must have: of a small model, half of them, so that it gets one at all.

    >>> choose_block_size(200), choose_block_size(6), choose_block_size(1)
    (5, 3, 1)
    """
    return max(1, min(SMALLEST_BLOCK, operators // 2))


def find_unbounded(program: torch.export.ExportedProgram) -> str:
    """The input and axis that may grow without end, which no engine can; "" where every size has a limit."""
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt) and size.node.shape_env.bound_sympy(size.node.expr).upper in (
                int_oo,
                None,
            ):
                return f"axis {axis} of '{node.name}'"
    return ""


def has_doubles(program: torch.export.ExportedProgram) -> bool:
    """Whether anything is computed in float64, which no engine can: it is truncated there, and judged."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    return any(isinstance(value, Tensor) and value.dtype is torch.float64 for value in values)


def _build_part(
    compiler: Any, opened: Opened, interface: Interface, place: Place, out: Path, rung: Rung, part: Part
) -> Built:
    program = lower(opened, interface, place.device, part.rows, is_fixed=part.is_fixed)
    unbounded = find_unbounded(program)
    if unbounded:
        raise BuildFailed(
            f"{unbounded} has no upper limit, and TensorRT needs one: a .pt2 exported with Dim(max=...) has it"
        )
    drop_needless_sizes(program)
    example = example_inputs(interface, place.device, part.rows)
    block = choose_block_size(sum(map(is_operator, program.graph.nodes)))
    with tempfile.TemporaryDirectory(prefix="torchere-timing-") as scratch:
        want = _settings(compiler, rung, place.device, block) | {
            "truncate_double": has_doubles(program),
            "timing_cache_path": f"{scratch}/timing.cache",
        }
        # A dry run divides the graph as the compilation will: afterwards nobody knows what went into an engine.
        plan, _ = _compile(compiler, program, example, {**want, "dryrun": True})
        if not isinstance(plan, fx.GraphModule) or not engine_calls(plan):
            raise BuildFailed(
                f"no block of {block} or more operators can become a TensorRT engine: {_unknown(plan, compiler)}"
            )
        module, ignored = _compile(compiler, program, example, want)
    converters = compiler.dynamo.conversion.DYNAMO_CONVERTERS
    hybrid = map_hybrid(plan, lambda node: explain(node, converters, block), _engine_sizes(module))
    read_sizes_again(module, plan)
    folder = out / part.folder
    folder.mkdir()
    how = save_hybrid(
        make_contiguous(module), example, folder, lambda path: _save_program(module, interface, place, part, path)
    )
    return Built(how, hybrid, ignored)


def _settings(compiler: Any, rung: Rung, device: str, block: int) -> dict[str, Any]:
    """What is asked of Torch-TensorRT. Its engine cache stays off: its key has neither weights nor arguments."""
    want: dict[str, Any] = {
        "device": compiler.Device(gpu_id=torch.device(device).index),
        "min_block_size": block,
        "disable_tf32": rung.precision != "tf32",
        "sparse_weights": SPARSE in rung.variant.split(),
        "immutable_weights": True,
        "cache_built_engines": False,
        "reuse_cached_engines": False,
    }
    if "fallback_data_dependent_ops" in _parameters(compiler):
        return want | {"fallback_data_dependent_ops": True}
    # An engine with outputs of unknown size waits for the GPU inside, and no CUDA graph can hold it.
    return want | {"torch_executed_ops": {"torch.ops.aten.nonzero.default"}}


def _compile(
    compiler: Any, program: torch.export.ExportedProgram, example: tuple[Tensor, ...], want: Mapping[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    """The module, and the arguments that this version does not know: it would swallow them without a word."""
    known = _parameters(compiler)
    given = {name: value for name, value in want.items() if name in known}
    try:
        module = compiler.dynamo.compile(program, arg_inputs=list(example), **given)
    except Exception as error:  # the compiler's own kinds are many
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:300] if lines else "TensorRT's own messages are in the log"
        raise BuildFailed(f"Torch-TensorRT failed: {type(error).__name__}: {reason}") from error
    return module, tuple(sorted(set(want) - set(given)))


def _parameters(compiler: Any) -> Mapping[str, Any]:
    return inspect.signature(compiler.dynamo.compile).parameters


def _unknown(plan: Any, compiler: Any) -> str:
    """The operators that no converter takes, for the sentence that says why there is no engine."""
    converters = compiler.dynamo.conversion.DYNAMO_CONVERTERS
    nodes = [node for node in plan.graph.nodes if is_operator(node) and node not in converters]
    return ", ".join(dict.fromkeys(str(node.target) for node in nodes)) or "the model is too small"


def _engine_sizes(module: fx.GraphModule) -> dict[str, int]:
    """Bytes of each engine, by the name of the child that runs it."""
    plans = {name: getattr(child, "serialized_engine", None) for name, child in module.named_children()}
    return {name: len(plan) for name, plan in plans.items() if plan is not None}


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
