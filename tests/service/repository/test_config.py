"""model.yaml: what a right one means, and which line and remedy each wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.spec import BACKENDS, Factory, Options, TensorSpec, Tolerance
from service.repository.config import ConfigError, read_config
from service.repository.model_config import Batching, ImageInput, ModelConfig, to_options
from service.repository.versions import Every, Latest, Specific, VersionPolicy
from tests.service.repository.configs import FULL, faults, read

ROOT = Path(__file__).parents[3]


FULL_TOLERANCES = {
    "fp32": Tolerance(1e-3, 1e-3),
    "tf32": Tolerance(1e-3, 2e-2),
    "fp16": Tolerance(1e-3, 5e-2),
    "bf16": Tolerance(1e-3, 1e-1),
    "fp8": Tolerance(1e-3, 3e-1),
    "int8": Tolerance(0.2, 5e-1),
}


def test_a_whole_file(folder: Path) -> None:
    config = read(folder, FULL)
    assert config == ModelConfig(
        name="pets",
        description="Cats and dogs",
        max_batch_size=8,
        inputs=(TensorSpec("image", "UINT8", (-1, 4, 6, 3), range=(0, 255)),),
        outputs=(TensorSpec("scores", "FP32", (-1, 2)),),
        labels={"scores": ("cat", "dog")},
        images=(ImageInput("image", "pad", 0.875, "RGB"),),
        batching=Batching(500, 32, 1_000_000),
        buckets=(1, 8),
        backends=("eager", "inductor"),
        precisions=("fp32", "fp16"),
        objective="latency",
        tolerances=FULL_TOLERANCES,
        max_accuracy_drop=0.02,
        sparsity="prune",
        strict=True,
        timeout_s=60,
        trust=True,
        startup="wait",
        factory=Factory("mlp", '{"sizes":[4,2]}'),
        requires=("torch-geometric",),
        instances=2,
        version_policy=Latest(3),
    )


def test_a_date_is_text(folder: Path) -> None:
    assert read(folder, "description: 2024-01-31\n").description == "2024-01-31"


def test_an_empty_file_leaves_everything_open(folder: Path) -> None:
    assert read(folder, "# nothing yet\n") == ModelConfig("pets")


def test_options_for_the_compiler(folder: Path) -> None:
    assert to_options(ModelConfig("pets"), threads=2) == Options(threads=2)
    assert to_options(ModelConfig("pets"), threads=0, timeout_s=5).timeout_s == 5
    options = to_options(read(folder, FULL), threads=2, timeout_s=5)
    assert options.timeout_s == 60
    assert (options.max_batch_size, options.buckets, options.backends) == (8, (1, 8), ("eager", "inductor"))
    assert options.objective == "latency"
    assert options.precisions == ("fp32", "fp16")
    assert options.tolerance("int8") == Tolerance(0.2, 5e-1)
    assert (options.max_accuracy_drop, options.sparsity, options.strict) == (0.02, "prune", True)
    assert options.inputs is not None
    assert options.inputs[0].range == (0, 255)


def test_trust_startup_and_the_factory_are_not_the_compilers_options(folder: Path) -> None:
    text = "trust: true\nstartup: wait\nfactory: mlp\n"
    assert to_options(read(folder, text), threads=2) == Options(threads=2)


@pytest.mark.parametrize("text", ["auto", "[eager, torchscript, inductor, tensorrt]"])
def test_backends_left_to_the_device_or_named(folder: Path, text: str) -> None:
    named = read(folder, f"compile: {{backends: {text}}}").backends
    assert named == (None if text == "auto" else BACKENDS)


@pytest.mark.parametrize(
    ("text", "precisions"),
    [("auto", None), ("fp16", ("fp16",)), ("[int8, fp32, int8]", ("fp32", "int8"))],
)
def test_a_precision_several_or_the_devices(folder: Path, text: str, precisions: tuple[str, ...] | None) -> None:
    assert read(folder, f"compile: {{precision: {text}}}").precisions == precisions


def test_a_tolerance_as_it_is_by_default_is_none_of_its_own(folder: Path) -> None:
    text = "compile: {tolerance: {fp32: {relative_l2: 1e-4}, fp16: {max_abs: 0.5}}}"
    assert read(folder, text).tolerances == {"fp16": Tolerance(1e-2, 0.5)}


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("mlp", "mlp", "{}"),
        ("timm:resnet18", "timm:resnet18", "{}"),
        ("{name: mlp, arguments: {z: 1, a: {c: [1.5, x], b: null}}}", "mlp", '{"a":{"b":null,"c":[1.5,"x"]},"z":1}'),
    ],
)
def test_a_factory_is_a_name_and_arguments(folder: Path, text: str, name: str, arguments: str) -> None:
    assert read(folder, f"factory: {text}").factory == Factory(name, arguments)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("all", Every()),
        ("{latest: 2}", Latest(2)),
        ("{specific: [10, 9]}", Specific(("9", "10"))),
    ],
)
def test_version_policies(folder: Path, text: str, policy: VersionPolicy) -> None:
    assert read(folder, f"version_policy: {text}").version_policy == policy


def test_a_program_describes_itself(folder: Path) -> None:
    (folder / "1" / "model.pt2").touch()
    assert read_config(folder) == ModelConfig("pets")


def test_any_other_model_needs_its_file(folder: Path) -> None:
    (folder / "1" / "model.py").touch()
    with pytest.raises(ConfigError, match=r"pets/model\.yaml is missing: write one that declares the model's inputs"):
        read_config(folder)


def test_labels_from_a_file(folder: Path) -> None:
    (folder / "names.txt").write_text("Katze\nHündchen\n", encoding="utf-8")
    config = read(folder, FULL.replace("[cat, dog]", "names.txt"))
    assert config.labels == {"scores": ("Katze", "Hündchen")}


@pytest.mark.parametrize("shape", ["[-1, 3, 4, 6]", "[-1, 4, 6, 3]"])
def test_an_image_may_lie_either_way(folder: Path, shape: str) -> None:
    assert read(folder, FULL.replace("[-1, 4, 6, 3]", shape)).images


@pytest.mark.parametrize(
    ("example", "fits"), [("[5, 7]", True), ("[2, 5, 7]", True), ("[5, 8]", False), ("[5]", False)]
)
def test_an_example_fits_with_or_without_the_batch(folder: Path, example: str, fits: bool) -> None:
    text = f"inputs:\n  - {{name: x, datatype: FP32, shape: [-1, -1, 7], example_shape: {example}}}\n"
    if fits:
        assert read(folder, text).inputs
    else:
        assert "does not fit its shape [-1, -1, 7]" in faults(folder, text)[0]


def test_batching_is_read(folder: Path) -> None:
    text = "max_batch_size: 8\ninputs:\n  - {name: x, datatype: FP32, shape: [-1, 3]}\n"
    keys = "{max_queue_delay_us: 5, preferred_batch_sizes: [2, 4], timeout_action: delay, preserve_ordering: true}"
    found = read(folder, f"{text}batching: {keys}\n").batching
    assert (found.preferred_batch_sizes, found.timeout_action, found.preserve_ordering) == ((2, 4), "delay", True)
    assert (found.split, found.max_request_rows) == (True, 0)


def test_a_model_without_batches_has_fixed_first_dimensions_and_no_buckets(folder: Path) -> None:
    text = "max_batch_size: 0\ninputs:\n  - {name: x, datatype: FP32, shape: [3]}\n"
    assert read(folder, text).max_batch_size == 0
    assert faults(folder, f"{text}batching:\n  buckets: [1]\n") == [
        "5: batching.buckets need a batch dimension: remove them, or set max_batch_size above 0"
    ]


def test_answers_are_kept_where_the_file_says_so_and_equal_inputs_get_equal_answers(folder: Path) -> None:
    inputs = "inputs:\n  - {name: x, datatype: FP32, shape: [-1, 3]}\nmax_batch_size: 4\n"
    assert read(folder, f"{inputs}response_cache: true\n").response_cache
    sentence = "4: response_cache and sequence contradict each other, as equal inputs need not get equal answers"
    assert faults(folder, f"{inputs}response_cache: true\nsequence: {{}}\n")[0].startswith(sentence)


def test_the_example_in_the_documentation_is_right(folder: Path) -> None:
    page = (ROOT / "docs" / "model-repository.md").read_text()
    example = next(block for block in page.split("```yaml\n")[1:] if "version_policy" in block).partition("```")[0]
    (folder / "labels.txt").write_text("cat\ndog\nneither\n")
    config = read(folder, example)
    assert config.images
    assert config.labels == {"probabilities": ("cat", "dog", "neither")}
    from service.repository import schema, schema_pad

    blocks = "\n".join(block.partition("```")[0] for block in page.split("```yaml\n")[1:])
    keys = [line.strip().lstrip("#").strip().partition(":")[0] for line in blocks.splitlines()]

    named = [*vars(schema).values(), schema_pad.PadPart]
    parts = [part for part in named if isinstance(part, type) and issubclass(part, schema.Part)]
    for part in parts:
        missing = set(part.model_fields) - set(keys) - {"all", "latest", "specific"}
        words = blocks.replace("{", " ").replace(",", " ").split()
        assert not {name for name in missing if f"{name}:" not in words}
