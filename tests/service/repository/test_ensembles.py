"""An ensemble in model.yaml: what is taken, in which order its steps are kept, what is refused and at which line."""

from pathlib import Path

import pytest

from service.repository.config import ConfigError, read_config
from service.repository.storage import find, members, scan

HEAD = "ensemble:\n  steps:\n"
FIRST = "    - {model: first, inputs: {x: picture}, outputs: {y: middle}}\n"
SECOND = "    - {model: second, version: 2, inputs: {a: middle}, outputs: {b: answer}}\n"
X = "{name: picture, datatype: FP32, shape: [-1, 2]}"


def faults(folder: Path, text: str) -> list[str]:
    """What is wrong, as `LINE: sentence`."""
    (folder / "model.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(folder)
    return [fault.removeprefix(f"{folder / 'model.yaml'}:") for fault in caught.value.faults]


def test_steps_are_kept_in_an_order_in_which_each_finds_its_inputs(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(HEAD + SECOND + FIRST)
    ensemble = read_config(tmp_path).ensemble
    assert ensemble is not None
    assert [(step.model, step.version) for step in ensemble.steps] == [("first", ""), ("second", "2")]
    assert ensemble.steps[1].inputs == {"a": "middle"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + FIRST + FIRST, ["4: 'middle' is made by step 0 and by step 1: give one another name"]),
        (
            HEAD + FIRST.replace("picture", "answer") + SECOND,
            ["3: steps 0 (first), 1 (second) wait for each other: each needs what only a later one makes"],
        ),
        (
            HEAD + FIRST + SECOND + f"inputs: [{X.replace('picture', 'pictures')}]\n",
            [
                "3: 'picture' is no input of the ensemble and made by no step: did you mean 'pictures'?",
                "5: input 'pictures' is taken by no step: let one take it, or leave it out",
            ],
        ),
        (
            HEAD + FIRST + SECOND + f"outputs: [{X.replace('picture', 'middle')}]\n",
            ["4: 'answer' of step 1 is taken by no step and is no output: leave it out, or declare it"],
        ),
        (
            HEAD + FIRST + SECOND + f"outputs: [{X.replace('picture', 'answers')}, {X.replace('picture', 'answer')}]\n",
            ["5: output 'answers' is made by no step: did you mean 'answer'?"],
        ),
        (
            HEAD + FIRST + SECOND + f"inputs: [{X}, {X.replace('picture', 'middle')}]\n",
            ["3: 'middle' is an input of the ensemble and made by step 0: give one another name"],
        ),
        (
            "compile: {backends: eager}\ntrust: true\nbatching: {buckets: [1, 4]}\nmax_batch_size: 4\n" + HEAD + FIRST,
            [
                "1: compile has no meaning beside ensemble, which has no program of its own: say it of the models",
                "2: trust has no meaning beside ensemble, which has no program of its own: say it of the models",
                "3: batching.buckets has no meaning for an ensemble, whose models batch each by itself: say it of the "
                "models",
            ],
        ),
        (
            HEAD + FIRST + "sequence: {}\npreprocess: {inputs: [{name: t, datatype: BYTES, shape: [1]}]}\n",
            [
                "4: sequence has no meaning beside ensemble, which has no program of its own: say it of the models",
                "5: preprocess has no meaning beside ensemble, which has no program of its own: say it of the models",
            ],
        ),
    ],
)
def test_what_contradicts_itself_is_refused_at_its_line(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert faults(tmp_path, text) == expected


def test_an_ensemble_does_not_call_itself(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    assert faults(folder, HEAD + FIRST) == ["3: step 0 calls 'first', the ensemble itself"]


def test_what_is_said_of_requests_may_stand_beside_it(tmp_path: Path) -> None:
    text = "response_cache: true\nbatching: {timeout_us: 5, max_queue_size: 7}\ntrust: false\n"
    text += f"inputs: [{X.replace('FP32', 'BYTES')}]\n"
    (tmp_path / "model.yaml").write_text(text + HEAD + FIRST + SECOND)
    config = read_config(tmp_path)
    assert config.inputs is not None
    assert (config.inputs[0].datatype, config.batching.timeout_us) == ("BYTES", 5)


def test_bytes_are_nothing_for_a_program(tmp_path: Path) -> None:
    assert faults(tmp_path, f"inputs:\n  - {X.replace('FP32', 'BYTES')}\n") == [
        "2: 'picture' is BYTES, but a program takes and gives numbers only"
    ]


def test_a_folder_without_versions_is_right_for_an_ensemble_and_wrong_for_a_model(tmp_path: Path) -> None:
    for name, text in (("both", HEAD + FIRST + SECOND), ("first", "trust: true\n"), ("second", HEAD + FIRST * 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text(text)
    both, first, second = scan(tmp_path)
    assert (both.versions, both.error, members(both)) == (("1",), None, ("first", "second"))
    assert "has no version" in (first.error or "")
    assert "model.yaml:4: 'middle' is made by step 0" in (second.error or "")


def test_an_ensemble_may_have_versions_but_no_files(tmp_path: Path) -> None:
    place = tmp_path / "both" / "3"
    place.mkdir(parents=True)
    (place / ".gitkeep").touch()
    (tmp_path / "both" / "model.yaml").write_text(HEAD + FIRST)
    found = find(tmp_path, "both", {})
    assert found is not None
    assert (found.versions, found.error) == (("3",), None)
    (place / "model.pt2").touch()
    found = find(tmp_path, "both", {})
    assert found is not None
    assert f"{place / 'model.pt2'} is of no use" in (found.error or "")


def test_to_choose_an_ensemble_is_to_choose_what_it_calls(tmp_path: Path) -> None:
    for name, text in (("both", HEAD + FIRST), ("first", "trust: true\n"), ("other", "trust: true\n")):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "model.yaml").write_text(text)
    assert [model.name for model in scan(tmp_path, ["both"])] == ["both", "first"]
    assert [model.name for model in scan(tmp_path, ["other"])] == ["other"]
