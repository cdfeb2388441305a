"""Artifacts that travel with the model: `<model>/<version>/artifacts/<key>/`, compiled elsewhere, taken as they are.

Knows nothing of how an artifact is made. `cache.py` looks through these folders first and verifies what it finds;
`trust.py` says whether code that came with a model may run.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from compiler.cache import Cache
from compiler.publish import publish
from compiler.spec import Source
from compiler.trust import check_shipped

SHIPPED_FOLDER = "artifacts"


def with_shipped(cache: Cache, source: Source, trusted: bool) -> Cache:
    """`cache`, which takes what was shipped with the model first.

    Taking one raises LoadFailed where the model is not trusted: an artifact is code, whatever it was made from.
    """
    return cache.with_shipped(
        source.folder / SHIPPED_FOLDER, check=lambda artifact: check_shipped(artifact, source.folder, trusted)
    )


def ship(artifact: Path, version: Path) -> Path:
    """Copy an artifact from the cache to the model in the folder `version`; returns the copy. Raises OSError."""
    shipped = version / SHIPPED_FOLDER
    place = shipped / artifact.name
    if place.exists():
        return place
    shipped.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=shipped) as folder:
        made = Path(folder) / artifact.name
        shutil.copytree(artifact, made)
        publish(made, place)
    return place
