"""What clients may change while the service runs: each is a setting, off until it is switched on.

Knows nothing of how: `model_control.py` loads and unloads, `shared_memory.py` has the regions. `settings.py` has the
fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

ControlMode = Annotated[
    Literal["none", "poll", "explicit"],
    Field(
        description="Which models are served: none: those there at the start; poll: also those that come and change; "
        "explicit: those of --load-model, and those that clients load."
    ),
]
LoadModel = Annotated[
    tuple[str, ...],
    Field(description="With explicit control: load this model at the start; '*': all. None given: none."),
]
PollInterval = Annotated[
    float,
    Field(ge=0.1, allow_inf_nan=False, description="With poll: seconds between two looks at the model repository."),
]
TrustUploads = Annotated[
    bool,
    Field(description="With explicit control: open files that come with a load call even where they can run code."),
]


def _read_off(value: Any) -> Any:
    return "off" if value is False else value  # which is what YAML makes of a plain off


SharedMemory = Annotated[
    Literal["off", "system", "cuda", "all"],
    BeforeValidator(_read_off),
    Field(
        description="system: clients of this machine may pass tensors in /dev/shm. They name any file there that the "
        "server may open, so switch it on only where every client is trusted. cuda: in the memory of a GPU that models "
        "run on; all: in both."
    ),
]
