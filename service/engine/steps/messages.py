"""What an engine and a process of steps say to each other, as frozen messages; tensors follow them in the same frame.

Knows no sockets and nothing of serving, so that a process of steps stays small. `channel.py` carries them, `worker.py`
and `process.py` are the two ends.
"""

from __future__ import annotations

import msgspec

from service.repository.scheduling import GENERATE as GENERATE
from service.repository.scheduling import POSTPROCESS as POSTPROCESS
from service.repository.scheduling import PREPROCESS as PREPROCESS

WINDOW = 16  # responses of a generation that the client has yet to take; beyond it the generator is not asked for more


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The root: a message is its tag and its fields, in order, as msgpack."""


class Described(msgspec.Struct, frozen=True, array_like=True):
    """A tensor whose `size` bytes follow the message."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int


Tensors = tuple[Described, ...]


# From the engine.


class Open(Message, frozen=True):
    """Load the step files in `folder`: for each, the datatypes of the tensors it must give, by name.

    `model` are those that a generation gives to the model, in the model's order.
    """

    folder: str
    files: dict[str, dict[str, str]]
    model: dict[str, str] = {}


class Call(Message, frozen=True):
    """Run a step. `inputs` are the client's own, where postprocess.py gets the model's outputs in `tensors`."""

    file: str
    tensors: Tensors
    inputs: Tensors = ()


class Took(Message, frozen=True):
    """The client has taken so many responses of the generation."""

    count: int


class Stop(Message, frozen=True):
    """Nobody wants the rest of the generation."""


class ModelGave(Message, frozen=True):
    """What the model gave to a call; or why it did not, `is_refusal` where the client is at fault."""

    tensors: Tensors = ()
    error: str = ""
    is_refusal: bool = False


# From the process.


class Opened(Message, frozen=True):
    """The files are loaded."""


class Gave(Message, frozen=True):
    """What the step gave. `is_final`: it is done; the last word of a generation has no tensors."""

    tensors: Tensors = ()
    is_final: bool = True


class Raised(Message, frozen=True):
    """The step is at an end with an error; `is_refusal`: it said that the client is at fault."""

    error: str
    is_refusal: bool = False


class AskModel(Message, frozen=True):
    """A generation calls the model."""

    tensors: Tensors


class Said(Message, frozen=True):
    """A line that the step printed or logged; `level` as `logging` numbers them."""

    level: int
    text: str


EngineMessage = Open | Call | Took | Stop | ModelGave
StepMessage = Opened | Gave | Raised | AskModel | Said
