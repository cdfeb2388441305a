"""What is wrong in a model.yaml is told in a sentence with its line, all of it at once; hostile files go no further."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.repository.config import ConfigError
from service.repository.scheduling import Sequencing
from service.repository.scheduling import State as SequenceState
from tests.service.repository.configs import FULL, faults, read


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[cat]", "labels of 'scores': there are 1, but the last dimension of its shape [-1, 2] is 2"),
        ("absent.txt", "labels of 'scores': the file 'absent.txt' cannot be read: No such file or directory"),
        ("../../secret", "labels of 'scores': the file '../../secret' is outside the model's folder: put it inside"),
        ("/etc/passwd", "labels of 'scores': the file '/etc/passwd' is outside the model's folder: put it inside"),
        ("latin.txt", "labels of 'scores': the file 'latin.txt' is not UTF-8: save it as UTF-8"),
        ("[yes, no]", "outputs[0].labels must be a list of text (quote numbers, yes and no) or a file in the"),
        ("'a\\0b'", "labels of 'scores': the file"),
    ],
)
def test_wrong_labels(folder: Path, labels: str, message: str) -> None:
    (folder / "latin.txt").write_bytes("Hündchen\n".encode("latin-1"))
    (fault,) = faults(folder, FULL.replace("[cat, dog]", labels))
    assert fault.startswith(f"13: {message}")


REPLACED = [  # in FULL, by what, the line, the sentence
    ("max_batch_size:", "max_batchsize:", 2, "unknown key 'max_batchsize': did you mean 'max_batch_size'?"),
    ("fit: pad", "fti: pad", 8, "unknown key 'fti' in inputs[0].image: did you mean 'fit'?"),
    ("max_queue_size", "queue", 16, "unknown key 'queue' in batching: known are max_queue_delay_us, max_queue_size,"),
    ("    datatype: UINT8\n", "", 4, "inputs[0].datatype is missing: add it"),
    ("UINT8", "uint8", 5, "inputs[0].datatype 'uint8' is not a datatype: did you mean 'UINT8'?"),
    ("FP32", "float32", 11, "outputs[0].datatype 'float32' is not a datatype: did you mean 'FP32'?"),
    ("max_batch_size: 8", "max_batch_size: many", 2, "max_batch_size must be a valid integer, not 'many'"),
    ("max_batch_size: 8", "max_batch_size: yes", 2, "max_batch_size must be a valid integer, not True"),
    ("max_batch_size: 8", "max_batch_size: -1", 2, "max_batch_size must be greater than or equal to 0, not -1"),
    ("description: Cats and dogs", "description:", 1, "description must be text, not None"),
    ("[-1, 2]", "[-1, 0]", 12, "outputs[0].shape[1] must be positive, or -1 for a size that varies, not 0"),
    ("[-1, 2]", "[4, 2]", 12, "'scores' has shape [4, 2], but with max_batch_size 8 the first dimension is the batch:"),
    ("[0, 255]", "[255, 0]", 7, "range of 'image' must be [lowest, highest], not [255.0, 0.0]"),
    ("[0, 255]", "[.nan, 1]", 7, "inputs[0].range[0] must be a finite number, not nan"),
    ("[-1, 4, 6, 3]", "[-1, 4, 6]", 8, "image in RGB needs the shape [-1, height, width, 3] or [-1, 3, height, width]"),
    ("[-1, 4, 6, 3]", "[-1, 4, -1, 3]", 8, "image in RGB needs the shape"),
    ("color: RGB", "color: L", 8, "image in L needs the shape [-1, height, width, 1]"),
    ("UINT8", "INT64", 8, "image needs UINT8 or FP32, but 'image' is INT64"),
    ("fit: pad", "fit: squeeze", 8, "inputs[0].image.fit must be 'crop', 'stretch' or 'pad', not 'squeeze'"),
    ("buckets: [1, 8]", "buckets: [1, 4]", 18, "batching.buckets must end with max_batch_size, which is 8, not 4"),
    ("buckets: [1, 8]", "buckets: [8, 1, 8]", 18, "batching.buckets must rise, not [8, 1, 8]"),
    ("inductor", "inducter", 20, "compile.backends[1] 'inducter' is not a backend: did you mean 'inductor'?"),
    ("1e-3", "-1", 23, "compile.tolerance.relative_l2 must be greater than 0, not -1"),
    (
        "fp16, fp32",
        "half",
        22,
        "compile.precision[0] 'half' is not a precision: known are auto, fp32, tf32, fp16, bf16",
    ),
    ("int8: {", "int4: {", 23, "unknown key 'int4' in compile.tolerance: did you mean 'int8'?"),
    ("drop: 0.02", "drop: 2", 24, "compile.max_accuracy_drop must be less than or equal to 1, not 2"),
    ("prune", "remove", 25, "compile.sparsity must be 'report' or 'prune', not 'remove'"),
    ("trust: true", "trust: model.pt", 28, "trust must be true or false, not 'model.pt'"),
    ("trust: true", "trust: 'yes'", 28, "trust must be true or false, not 'yes'"),
    ("startup: wait", "startup: later", 29, "startup must be 'wait' or 'fallback', not 'later'"),
    ("name: mlp", "name: os.system()", 30, "factory.name 'os.system()' is not the name of a factory: write a"),
    ("sizes: [4", "a-b: [4", 30, "factory.arguments has 'a-b', which is not the name of an argument"),
    ("[4, 2]}", "[4, .nan]}", 30, "factory.arguments must hold numbers that are finite"),
    ("torch-geometric", "torch>=2", 31, "requires[0] 'torch>=2' is not the name of a distribution: write it as `pip"),
    ("instances: 2", "instances: 0", 32, "instances must be greater than or equal to 1, not 0"),
    ("{latest: 3}", "newest", 33, "version_policy must be a valid dictionary, not 'newest'"),
    ("{latest: 3}", "{latest: 1, specific: [2]}", 33, "version_policy must be one of `{latest: 2}`, `{specific:"),
    ("inputs:\n", "inputs: []\nx:\n", 3, "inputs must have at least 1 item, not []"),
    ("{latest: 3}", "{}", 33, "version_policy must be one of `{latest: 2}`"),
]


@pytest.mark.parametrize(("right", "wrong", "line", "message"), REPLACED)
def test_a_wrong_value_is_told_with_its_line(folder: Path, right: str, wrong: str, line: int, message: str) -> None:
    assert FULL.count(right) >= 1
    found = faults(folder, FULL.replace(right, wrong, 1))
    assert any(fault.startswith(f"{line}: {message}") for fault in found), found


def test_all_faults_are_told_at_once_in_the_order_of_lines(folder: Path) -> None:
    found = faults(folder, "instances: 0\nmax_batchsize: 4\ndescription: [1]\n")
    assert [fault.partition(":")[0] for fault in found] == ["1", "2", "3"]


def test_a_name_is_used_once(folder: Path) -> None:
    inputs = "  - {name: x, datatype: FP32, shape: [-1]}\n"
    assert faults(folder, f"inputs:\n{inputs}{inputs}") == [
        "3: inputs has the name 'x' twice: each needs its own",
    ]


def test_an_image_body_fills_one_input_only(folder: Path) -> None:
    more = FULL.replace("outputs:", "  - {name: threshold, datatype: FP32, shape: [-1, 1]}\noutputs:")
    assert faults(folder, more)[0].startswith("8: image needs a model with one input, since an image body gives one")


@pytest.mark.parametrize(
    ("batching", "sentence"),
    [
        ("{max_queue_delay_us: 1, preferred_batch_sizes: [4, 2]}", "preferred_batch_sizes must rise, not [4, 2]"),
        (
            "{max_queue_delay_us: 1, preferred_batch_sizes: [4, 16]}",
            "preferred_batch_sizes must not exceed max_batch_size",
        ),
        (
            "{preferred_batch_sizes: [4]}",
            "preferred_batch_sizes end a delay, and there is none: set batching.max_queue",
        ),
        ("{split: false, max_request_rows: 64}", "max_request_rows has no meaning where requests are not split"),
        ("{max_request_rows: 7}", "max_request_rows must not be below max_batch_size, which is 8, not 7"),
        ("{timeout_action: later}", "timeout_action must be 'reject' or 'delay', not 'later'"),
    ],
)
def test_batching_that_contradicts_itself_is_refused(folder: Path, batching: str, sentence: str) -> None:
    text = "max_batch_size: 8\ninputs:\n  - {name: x, datatype: FP32, shape: [-1, 3]}\n"
    (fault,) = faults(folder, f"{text}batching: {batching}\n")
    assert sentence in fault


def test_state_that_does_not_fit_the_declared_tensors_is_told_with_its_line(folder: Path) -> None:
    text = (
        "inputs:\n  - {name: x, datatype: FP32, shape: [-1, 3]}\n  - {name: h, datatype: FP32, shape: [-1, 4]}\n"
        "outputs:\n  - {name: y, datatype: FP32, shape: [-1, 3]}\n  - {name: g, datatype: FP32, shape: [-1, 4]}\n"
        "sequence:\n  state:\n    - {input: h, output: {}}\n"
    )
    assert read(folder, text.replace("{}", "g")).sequencing == Sequencing(state=(SequenceState("h", "g"),))
    assert faults(folder, text.replace("{}", "y")) == [
        "7: the state goes out of 'y' with the shape [-1, 3], but 'h' takes [-1, 4]: they must agree"
    ]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instances: 1\ninstances: 2\n", "2: the key 'instances' is here twice, first on line 1: keep one"),
        ("description: x\nbatching:\n\tbuckets: [1]\n", "3: this is not YAML: found character '\\t'"),
        (b"description: ok\nrequires: [\xff]\n", "2: byte 0xff is not UTF-8: save the file as UTF-8"),
        ("description: a\nrequires: [\n", "3: this is not YAML:"),
        ("description: \x07\n", "1: the character U+0007 is not allowed in YAML: remove it"),
        (BOMB, "5: the file holds more than 100000 values, aliases counted"),
        ("a: &a\n  b: *a\n", "1: the values are nested more than 20 deep"),
        ("a: " + "[" * 5000, "1: the values are nested more than 20 deep"),
        ("a: " + "[" * 50 + "]" * 50, "1: the values are nested more than 20 deep"),
        ("#" * 300_000, "1: the file is larger than 256 KiB: is it the right one?"),
        ("description: !!python/object/apply:os.system [true]\n", "1: the tag tag:yaml.org,2002:python/object/apply"),
        ("description: !secret x\n", "1: the tag !secret is not allowed: write a plain value"),
        ("access: !!set {a, b}\n", "1: the tag tag:yaml.org,2002:set is not allowed"),
        ("instances: !!bool maybe\n", "1: 'maybe' is no bool: quote it if it is text"),
        ("instances: !!int ''\n", "1: '' is no int: quote it if it is text"),
        ("- a\n- b\n", "1: the file must hold `key: value` lines"),
        ("on: 1\n", "1: the key 'on' is not text: write a name, or quote it"),
        ("? [a]\n: 1\n", "1: the key that begins here is not text"),
        ("description: a\n---\ndescription: b\n", "2: this is not YAML: but found another document"),
    ],
)
def test_hostile_files(folder: Path, text: str | bytes, message: str) -> None:
    (fault,) = faults(folder, text)
    assert fault.startswith(message)


TOKENS = [
    *"ab:-[]{}&*!|>'\"#?,\n \t%@`0",
    "!!bool ",
    "!!int ",
    "!!timestamp ",
    "<<: ",
    "&a ",
    "*a ",
    "inputs: ",
    "labels: ",
]


@given(text=st.lists(st.sampled_from(TOKENS), max_size=30).map("".join))
def test_any_text_is_a_config_or_a_config_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    problem = ""
    try:
        read(folder, text)
    except ConfigError as error:
        problem = str(error)
    assert not problem or problem.startswith(f"{folder / 'model.yaml'}:")
