"""INT8 for AOTInductor on a CPU: operators that quantise and dequantise, of which it makes INT8 kernels.

Torchao puts observers where its X86 quantiser finds an operator that oneDNN has in INT8, and replaces them once they
have seen the calibration data. Takes every model that can be exported, TorchScript and .pt2 files as well.

Knows nothing of how the program is compiled: `backends/inductor.py` must fold the constants (`freezing`), or weights
are dequantised at every call. Next: `fx.py`, which does the same for TorchScript.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - defines torch.ops.quantized_decomposed

from compiler.datatypes import quiet_torchscript
from compiler.errors import BuildFailed, ToolMissing
from compiler.jobs import Interface
from compiler.load import Opened
from compiler.lower import lower
from compiler.quantize.engine import quiet_torch_ao
from compiler.quantize.fx import replace_observed

aten = torch.ops.aten

# What each operator is in terms of modules, which is how the quantiser knows its patterns. Torch's own record of it
# counts a module that is called twice as one, and a converted TorchScript has none.
SOURCES: dict[Any, Any] = {
    aten.conv1d.default: nn.Conv1d,
    aten.conv2d.default: nn.Conv2d,
    aten.linear.default: nn.Linear,
    aten.batch_norm.default: nn.BatchNorm2d,
    aten.relu.default: nn.ReLU,
    aten.relu_.default: nn.ReLU,
    aten.hardtanh.default: nn.Hardtanh,
    aten.hardtanh_.default: nn.Hardtanh,
    aten.relu6.default: nn.ReLU6,
    aten.hardswish.default: nn.Hardswish,
    aten.hardswish_.default: nn.Hardswish,
    aten.silu.default: nn.SiLU,
    aten.silu_.default: nn.SiLU,
    aten.leaky_relu.default: nn.LeakyReLU,
    aten.gelu.default: nn.GELU,
    aten.tanh.default: nn.Tanh,
    aten.add.Tensor: operator.add,
    aten.add_.Tensor: operator.add,
}
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)
GENERAL_CONVOLUTIONS = (aten.convolution.default, aten._convolution.default)


def quantize_static(opened: Opened, interface: Interface, batches: Sequence[tuple[Tensor, ...]]) -> Opened:
    """The model as a graph with quantise and dequantise operators, calibrated on `batches`.

    Raises ToolMissing, LowerFailed or BuildFailed.
    """
    if not batches:
        raise BuildFailed("static INT8 needs calibration data: put calibration.safetensors beside the model's file")
    prepare, convert, quantizer = _import_torchao()
    graph = lower(opened, interface, "cpu").module(check_guards=False)
    _name_sources(graph)
    with torch.no_grad(), quiet_torch_ao():
        try:
            prepared = prepare(graph, quantizer)
            for batch in batches:
                prepared(*batch)
            converted = convert(prepared)
        except Exception as error:  # torchao's own kinds are many
            raise BuildFailed(f"torchao cannot quantise the program: {_explain(error)}") from error
    return _checked(converted)


def convert_trained(opened: Opened, interface: Interface) -> Opened:
    """A model that was trained with torch.ao's FakeQuantize modules, as such a graph.

    Raises LowerFailed or BuildFailed.
    """
    # The public convert_to_reference_fx makes tensors of quantised types, which torch.export does not take.
    from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx

    with quiet_torch_ao(), torch.no_grad():
        try:
            module = replace_observed(opened.module, _convert_to_reference_decomposed_fx)
        except Exception as error:
            raise BuildFailed(f"torch.ao cannot convert the trained quantisers: {_explain(error)}") from error
    return take_program(Opened(opened.kind, module.eval()), interface)


def take_program(opened: Opened, interface: Interface) -> Opened:
    """A model that has its operators to quantise already, as such a graph. Raises LowerFailed or BuildFailed."""
    return _checked(lower(opened, interface, "cpu").module(check_guards=False))


def has_quantizers(graph: fx.Graph) -> bool:
    """Whether a graph quantises and dequantises: by PyTorch's operators, or by those that TensorRT takes."""
    return any(
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and (
            node.target.namespace == "quantized_decomposed"
            or str(node.target).startswith(("tensorrt.quantize_op", "tensorrt.dynamic_block_quantize_op"))
        )
        for node in graph.nodes
    )


def _import_torchao() -> tuple[Any, Any, Any]:
    """(prepare, convert, the quantiser of whole programs)."""
    try:
        with quiet_torchscript():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError as error:
        raise ToolMissing(
            f"INT8 with inductor needs torchao: pip install 'torchere[quantization]' ({error})"
        ) from error
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    return prepare_pt2e, convert_pt2e, quantizer


def _name_sources(module: nn.Module) -> None:
    """Make every operator a source of its own, and every convolution one that the quantiser knows."""
    assert isinstance(module, fx.GraphModule), "an exported program gives a graph"
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in GENERAL_CONVOLUTIONS:
            _name_convolution(node)
        node.meta["source_fn_stack"] = [(node.name, SOURCES.get(node.target, node.target))]


def _name_convolution(node: fx.Node) -> None:
    """A converted TorchScript has one operator for convolutions of all dimensions, transposed or not."""
    data, weight, bias, stride, padding, dilation, is_transposed, _, groups, *_ = node.args
    target = {1: aten.conv1d.default, 2: aten.conv2d.default}.get(len(stride))  # type: ignore[arg-type]
    if target is not None and not is_transposed:
        node.target, node.args = target, (data, weight, bias, stride, padding, dilation, groups)


def _checked(module: nn.Module) -> Opened:
    assert isinstance(module, fx.GraphModule), "an exported program gives a graph"
    graph = module.graph
    if not has_quantizers(graph):
        raise BuildFailed("torchao found nothing to quantise: it knows linear, conv1d and conv2d")
    for node in list(graph.nodes):
        if node.target in CONVOLUTIONS:
            _keep_one_channel_float(module, node)
    graph.eliminate_dead_code()
    module.recompile()
    return Opened("python", module)


def _keep_one_channel_float(module: fx.GraphModule, convolution: fx.Node) -> None:
    """Replace the weight of a convolution with one input channel by its dequantised value, so that it stays float.

    Inductor takes the layout of an INT8 convolution's output from its input's, and one channel fits two layouts. With
    torch 2.13 it picks the wrong one, and the answers are nonsense. In float the layer is small, and right.
    """
    node = convolution.args[1]
    assert isinstance(node, fx.Node), "a convolution has a weight"
    weight = _evaluate(module, node)
    groups = convolution.args[6] if len(convolution.args) > 6 else 1
    if node.op == "get_attr" or weight.shape[1] * groups != 1:
        return
    name = f"_float_{node.name}"
    module.register_buffer(name, weight, persistent=False)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    convolution.replace_input_with(node, constant)


def _evaluate(module: nn.Module, node: fx.Node) -> Any:
    """The value of a node that depends on constants alone."""
    if node.op == "get_attr":
        value: Any = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach() if isinstance(value, Tensor) else value
    assert callable(node.target), "a weight does not depend on the inputs"
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda inner: _evaluate(module, inner))
    return node.target(*args, **kwargs)


def _explain(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
