"""Where processes count, who publishes it and under which names, each a setting.

Knows nothing of how: `observe/store.py` counts, `observe/sidecar.py` publishes. `settings.py` has the fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from service.observe.aliases import Aliases

MetricsDirectory = Annotated[
    Path | None,
    AfterValidator(lambda path: path.expanduser() if path is not None else None),
    Field(
        description="Folder in which processes count, for a sidecar in a container of its own; after a restart they "
        "count on. None: a temporary one."
    ),
]
MetricsSidecar = Annotated[
    bool, Field(description="Start the process that publishes the metrics; no: another one reads the folder.")
]
MetricsAliases = Annotated[
    Aliases, Field(description="Publish the same counts under the names of these servers too: see docs/metrics.md.")
]
