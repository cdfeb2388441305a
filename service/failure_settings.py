"""How long things may take when something breaks, or the service leaves, each a setting.

Knows nothing of how: `engine/watch.py`, `engine/resend.py` and `serve.py` go by them. `settings.py` has the fields.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

BatchTimeout = Annotated[
    Seconds,
    Field(
        description="Seconds that a batch may run, but at least 100 times what it took when it was timed, unless "
        "model.yaml says: then it hangs, and the engine is replaced. 0: without end."
    ),
]
RerunTimeout = Annotated[
    Seconds,
    Field(
        description="Seconds that requests wait for an engine while theirs is replaced, unless they are due earlier."
    ),
]
StallTimeout = Annotated[
    Seconds,
    Field(
        description="Seconds after which the HTTP connection of a client is closed that sends nothing more amid a "
        "request (408), reads nothing of its answer, or never asks. 0: without end."
    ),
]
DrainDelay = Annotated[
    Seconds,
    Field(
        description="Seconds after SIGTERM in which it is not ready but still answers, for load balancers to look away."
    ),
]
DrainTimeout = Annotated[
    Seconds, Field(description="Seconds that accepted requests have to finish after SIGTERM, and after the delay.")
]
