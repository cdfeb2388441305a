"""Everything that can go wrong while a model is compiled, in one tree.

    CompileError
     ├── LoadFailed      the model's files, its declaration or the model itself: its owner can mend it
     ├── LowerFailed     torch.export cannot capture the model: only the rungs that need a program are lost
     ├── BuildFailed     a backend could not build its candidate: one rung is lost
     │    ├── BuilderDied    its process crashed, was killed or ran past its time
     │    ├── ToolMissing    something is not installed here: the rung is tried again where it is
     │    └── Unsupported    this device, or this version of a compiler, cannot do it, whatever is installed
     ├── Inaccurate      a candidate computes something else than the reference: one rung is lost
     ├── NoCandidate     no rung is left
     └── CacheUnusable   the cache folder cannot be created, locked or written

Knows nothing of torch or of processes. Each sentence names the file and the remedy: it is shown to users. `isolate.py`
carries these errors over the border of a process by the name of their class.
"""

from __future__ import annotations


class CompileError(Exception):
    """The root. `str(error)` is one sentence for the owner of the model."""


class LoadFailed(CompileError):
    """The model itself cannot be served as it is declared."""


class LowerFailed(CompileError):
    """torch.export refused the model."""


class BuildFailed(CompileError):
    """A backend could not build or load its candidate."""


class BuilderDied(BuildFailed):
    """A builder process ended without an answer."""


class ToolMissing(BuildFailed):
    """A backend needs something that is not installed here."""


class Unsupported(BuildFailed):
    """The device or the compiler's version cannot do what a rung asks for."""


class Inaccurate(CompileError):
    """A candidate differs from the float32 eager reference by more than the tolerance."""


class NoCandidate(CompileError):
    """Every rung of the ladder failed."""


class CacheUnusable(CompileError):
    """The folder of the cache is not ours to use."""


BY_NAME: dict[str, type[CompileError]] = {
    cls.__name__: cls
    for cls in (
        *(LoadFailed, LowerFailed, BuildFailed, BuilderDied, ToolMissing, Unsupported),
        *(Inaccurate, NoCandidate, CacheUnusable),
    )
}
