"""What a model is besides one call of one program, as frozen values: sequences, an ensemble, steps in Python, a cache.

Pure. `schema_scheduling.py` says what may stand in model.yaml, `config.py` makes these values of it, `engine/` acts.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from compiler.spec import TensorSpec

PREPROCESS, POSTPROCESS, GENERATE = "preprocess.py", "postprocess.py", "generate.py"


class State(msgspec.Struct, frozen=True):
    """A tensor that the server keeps for each sequence: the model's `output` of one request is its `input` in the next.

    It is zeros at the start. Clients see neither of the two.
    """

    input: str
    output: str


class Controls(msgspec.Struct, frozen=True):
    """Inputs that the server fills, "" where the model has none.

    `start`, `end` and `ready` are 1 or 0 for each row, `id` the sequence's number. Clients do not see them.
    """

    start: str = ""
    end: str = ""
    ready: str = ""
    id: str = ""


class Sequencing(msgspec.Struct, frozen=True):
    """The model has state: requests with one `sequence_id` belong together and run one after the other.

    `oldest`: whatever sequences have a request waiting share a batch. `direct`: a sequence keeps one row of one
    instance's batch until it ends. `max_sequences` live at once on each device, more wait; one that gets no request for
    `idle_timeout_s` is forgotten.
    """

    strategy: Literal["oldest", "direct"] = "oldest"
    max_sequences: int = 128
    idle_timeout_s: float = 60.0
    state: tuple[State, ...] = ()
    controls: Controls = Controls()


class EnsembleStep(msgspec.Struct, frozen=True):
    """One model of an ensemble. `inputs`, `outputs`: the model's own name of a tensor -> its name in the ensemble."""

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    version: str = ""


class Ensemble(msgspec.Struct, frozen=True):
    """Several models as one, in an order in which each finds its inputs."""

    steps: tuple[EnsembleStep, ...]


class Generation(msgspec.Struct, frozen=True):
    """What `generate.py` takes, and what each of its responses gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Steps(msgspec.Struct, frozen=True):
    """Code in Python around the model, which lies beside it in the version's folder and runs in a process of its own.

    `preprocess`: the inputs that clients send, of which preprocess.py makes the model's. `postprocess`: the outputs
    that clients get, which postprocess.py makes of the model's. `generate`: generate.py answers in the model's place,
    in as many responses as it likes, and calls the model as often as it likes. None: there is no such file.
    `processes` run side by side; a call that takes longer than `timeout_s` is given up. `folder` holds the files as
    they were when the version was loaded, and is named after what is in them: other files are another folder.
    `model_inputs` and `model_outputs` are what the model itself takes and gives.
    """

    preprocess: tuple[TensorSpec, ...] | None = None
    postprocess: tuple[TensorSpec, ...] | None = None
    generate: Generation | None = None
    processes: int = 1
    timeout_s: float = 30.0
    folder: str = ""
    model_inputs: tuple[TensorSpec, ...] = ()
    model_outputs: tuple[TensorSpec, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The step files that are declared."""
        declared = {PREPROCESS: self.preprocess, POSTPROCESS: self.postprocess, GENERATE: self.generate}
        return tuple(name for name, what in declared.items() if what is not None)
