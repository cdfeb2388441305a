"""batching.pad in model.yaml: what it means, and which line and remedy each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.spec import Padding
from service.repository.config import ConfigError, read_config
from service.repository.model_config import to_options

ROOT = Path(__file__).parents[3]
TEXT = """\
max_batch_size: 8
inputs:
  - {name: ids, datatype: INT64, shape: [-1, -1]}
  - {name: mask, datatype: INT64, shape: [-1, -1]}
outputs:
  - {name: logits, datatype: FP32, shape: [-1, -1, 3]}
batching:
  pad:
    dims: {length: [16, 32]}
    inputs:
      ids: [-1, length]
      mask: [-1, length]
    outputs: {logits: [-1, length, 3]}
    mask: mask
    values: {ids: 1}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "text" / "1").mkdir(parents=True)
    (folder / "text" / "model.yaml").write_text(text)
    return folder / "text"


def test_it_is_read_and_reaches_the_compiler(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, TEXT))
    pad = Padding(
        {"length": (16, 32)},
        {"ids": {1: "length"}, "mask": {1: "length"}},
        {"logits": {1: "length"}},
        ("mask",),
        {"ids": 1},
    )
    assert config.batching.pad == pad
    assert to_options(config, threads=0).pad == pad


def test_the_example_in_the_documentation_is_right(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "model-repository.md").read_text()
    example = next(block for block in page.split("```yaml\n")[1:] if "    dims:" in block).partition("```")[0]
    pad = read_config(write(tmp_path, example)).batching.pad
    assert pad is not None
    assert pad.dims == {"length": (16, 32, 64, 128)}
    assert (pad.masks, pad.values, pad.check) == (("attention_mask",), {"input_ids": 0}, True)
    assert pad.outputs == {"token_states": {1: "length"}}


def test_the_order_of_dimensions_in_the_file_means_nothing(tmp_path: Path) -> None:
    pads = "dims: {width: [4], height: [8]}, inputs: {x: [-1, height, width]}, mask: [], check: false"
    pad = read_config(write(tmp_path, f"batching: {{pad: {{{pads}}}}}\n")).batching.pad
    assert pad is not None
    assert list(pad.dims) == ["height", "width"]
    assert (pad.inputs, pad.check) == ({"x": {1: "height", 2: "width"}}, False)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("[16, 32]", "[32, 16]", "9: batching.pad.dims: the sizes of 'length' must rise, not [32, 16]"),
        ("{length: [16, 32]}", "{}", "9: batching.pad.dims must have at least 1 item, not {}"),
        ("[16, 32]", "[0]", "9: batching.pad.dims.length[0] must be greater than or equal to 1, not 0"),
        ("[16, 32]", str([*range(2, 19)]), "9: batching.pad.dims: 4 batch sizes times its sizes are 68 shapes"),
        ("ids: [-1, length]", "ids: [-1, -1]", "11: batching.pad.inputs: 'ids' has the shape [-1, -1], in which no"),
        ("ids: [-1, length]", "ids: [length]", "11: batching.pad.inputs: 'ids' is declared with the shape [-1, -1]"),
        ("ids: [-1, length]", "ids: [-1, width]", "11: batching.pad.inputs: 'width' is no dimension"),
        ("ids: [-1, length]", "ids: [-1, true]", "11: batching.pad.inputs.ids[1] must be a size, -1 or the name"),
        ("ids: [-1, length]", "idz: [-1, length]", "11: batching.pad.inputs: 'idz' is no input of the model"),
        ("[-1, length, 3]", "[-1, length, 4]", "13: batching.pad.outputs: 'logits' is declared with the shape"),
        ("mask: mask\n", "mask: ids\n", "15: batching.pad.values: the mask 'ids' is 0 in the padding"),
        ("mask: mask\n", "mask: logits\n", "14: batching.pad.mask: the mask 'logits' is not among its inputs"),
        ("ids: 1", "ids: .inf", "15: batching.pad.values.ids must be a number, true or false, not inf"),
        ("ids: 1", "ids: 1.5", "15: batching.pad.values: the value of 'ids' must be one of INT64, not 1.5"),
        ("values:", "valuse:", "15: unknown key 'valuse' in batching.pad: did you mean 'values'?"),
        ("size: 8", "size: 0", "8: batching.pad: it needs a batch dimension"),
        (
            "batching:",
            "sequence: {controls: {start: mask}}\nbatching:",
            "9: batching.pad and sequence exclude each other",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, before: str, after: str, fault: str) -> None:
    assert before in TEXT
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, TEXT.replace(before, after)))
    path = f"{tmp_path / 'text' / 'model.yaml'}:"
    faults = [each.removeprefix(path) for each in caught.value.faults]
    assert any(each.startswith(fault) for each in faults), faults
