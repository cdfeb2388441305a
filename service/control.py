"""The door of control, read side: what the service and its models are, in the words of the Open Inference Protocol v2.

Returns plain values (dicts as the protocol's JSON has them); `rest` and `rpc` only translate. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from compiler.spec import TensorSpec
from service import __version__
from service.errors import NotFound
from service.extensions import Extensions, Nobody
from service.plane import Plane
from service.repository import ensemble_scheduling
from service.repository.catalog import Entry
from service.repository.sequence_batching import as_sequence_batching
from service.statistics import Key, Totals, model_statistics

# Only what works is listed: clients switch features on by these names.
EXTENSIONS = (
    *("classification", "model_configuration", "binary_tensor_data", "parameters", "schedule_policy"),
    *("sequence", "sequence(string_id)", "generate"),
    *("statistics", "logging"),
)
WHERE_EXPLICIT = ("model_repository", "model_repository(unload_dependents)")
WHERE_SHARED = ("system_shared_memory",)
WHERE_CUDA_SHARED = ("cuda_shared_memory",)
WHERE_TRACED = ("trace",)
PLATFORM = "pytorch_torchere"
CONFIG_BACKEND = "pytorch"


class Control:
    """Answers questions about the service from the plane's catalog; `extensions` is the door of what changes it."""

    def __init__(
        self,
        plane: Plane,
        extensions: Extensions | None = None,
        totals: Callable[[], Awaitable[dict[Key, Totals]]] | None = None,
    ) -> None:
        self.extensions = extensions or Extensions(plane, Nobody())
        self.has_shared_memory = False
        self.lacks: frozenset[str] = frozenset()  # extensions that this service cannot have
        self._plane = plane
        self._totals = totals
        self.version = __version__

    @property
    def is_ready(self) -> bool:
        return self._plane.is_ready

    def server_metadata(self) -> dict[str, Any]:
        """`{name, version, extensions}`."""
        extensions = [
            *EXTENSIONS,
            *(WHERE_EXPLICIT if self.extensions.is_explicit else ()),
            *(WHERE_SHARED if self.has_shared_memory else ()),
            *(WHERE_CUDA_SHARED if self.extensions.shared.has_cuda_memory else ()),
            *(WHERE_TRACED if self.extensions.trace_defaults else ()),
        ]
        extensions = [name for name in extensions if name not in self.lacks]
        return {"name": "torchere", "version": self.version, "extensions": extensions}

    def entries(self) -> tuple[Entry, ...]:
        """Every version of every model, ready or not."""
        return self._plane.catalog.entries()

    def entry(self, name: str, version: str = "") -> Entry:
        """One version, ready or not. Raises NotFound."""
        return self._plane.catalog.entry(name, version)

    def ready_entry(self, name: str, version: str = "") -> Entry:
        """One version. Raises NotFound, or Unavailable where it is not ready."""
        return self._plane.catalog.ready_entry(name, version)

    def versions(self, name: str) -> tuple[Entry, ...]:
        """Every version of a model, lowest first. Raises NotFound."""
        return self._plane.catalog.versions(name)

    def version_of(self, name: str, label: str) -> str:
        """The version that a label of a model stands for. Raises NotFound."""
        return self._plane.version_of(name, label)

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Raises NotFound for an unknown model or version."""
        return self.entry(name, version).is_ready and not self._plane.is_draining

    def is_decoupled(self, name: str, version: str = "") -> bool:
        """Whether a request may have any number of responses; False also where there is no such model."""
        try:
            return self.entry(name, version).is_decoupled
        except NotFound:
            return False

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """`{name, versions, platform, inputs, outputs}`. Raises NotFound, or Unavailable where it is not ready."""
        entry = self._plane.catalog.ready_entry(name, version)
        versions = [other.version for other in self._plane.catalog.versions(name) if other.is_ready]
        return {
            "name": name,
            "versions": [entry.version] if version else versions,
            "platform": PLATFORM if entry.ensemble is None else ensemble_scheduling.PLATFORM,
            "inputs": [_tensor_metadata(spec) for spec in entry.inputs],
            "outputs": [_tensor_metadata(spec) for spec in entry.outputs],
        }

    async def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """`{model_stats}` of every version that is ready, of a model's, or of one version. Raises NotFound."""
        if name and version:
            entries: tuple[Entry, ...] = (self.entry(name, version),)
        else:
            entries = self._plane.catalog.versions(name) if name else self.entries()
            entries = tuple(entry for entry in entries if entry.is_ready)
        totals = await self._totals() if self._totals is not None else {}
        return {"model_stats": [model_statistics(entry.name, entry.version, totals) for entry in entries]}

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """Triton's model configuration as JSON, with the field names of its ModelConfig message. Raises as above."""
        entry = self._plane.catalog.ready_entry(name, version)
        batches = entry.max_batch_size > 0
        config: dict[str, Any] = {
            "name": name,
            "platform": PLATFORM,
            "backend": CONFIG_BACKEND,
            "version_policy": {"specific": {"versions": [int(e.version) for e in self._plane.catalog.versions(name)]}},
            "max_batch_size": entry.max_batch_size,
            "model_transaction_policy": {"decoupled": entry.is_decoupled},
            "input": [
                {
                    "name": spec.name,
                    "data_type": _config_type(spec.datatype),
                    "dims": _dims(spec, batches),
                    **({"optional": True} if spec.name in entry.optional else {}),
                }
                for spec in entry.inputs
            ],
            "output": [
                {"name": spec.name, "data_type": _config_type(spec.datatype), "dims": _dims(spec, batches)}
                for spec in entry.outputs
            ],
            "instance_group": [
                {
                    "name": f"{name}_0",
                    "kind": "KIND_GPU" if entry.device.startswith("cuda") else "KIND_CPU",
                    "count": entry.instances,
                }
            ],
            "parameters": {
                "torchere_backend": {"string_value": entry.backend},
                "torchere_precision": {"string_value": entry.precision},
                **_padded_sizes(entry),
            },
        }
        if entry.response_cache:
            config["response_cache"] = {"enable": True}
        if entry.sequencing is not None:
            config["sequence_batching"] = as_sequence_batching(entry, entry.sequencing)
        elif batches:
            config["dynamic_batching"] = {
                "preferred_batch_size": list(entry.buckets),
                "max_queue_delay_microseconds": entry.batching.max_queue_delay_us,
                "default_queue_policy": {
                    "max_queue_size": entry.batching.max_queue_size,
                    "default_timeout_microseconds": entry.batching.timeout_us,
                    **({"timeout_action": "DELAY"} if entry.batching.timeout_action == "delay" else {}),
                },
                **({"preserve_ordering": True} if entry.batching.preserve_ordering else {}),
            }
        if entry.ensemble is not None:
            return ensemble_scheduling.as_ensemble(config, entry.ensemble)
        return config


def _padded_sizes(entry: Entry) -> dict[str, Any]:
    """`torchere_pad_length: 16, 32, 64`: inputs are padded by the server, which Triton's configuration cannot say."""
    pad = entry.pad
    dims = pad.dims if pad is not None else {}
    return {f"torchere_pad_{name}": {"string_value": ", ".join(map(str, sizes))} for name, sizes in dims.items()}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_type(datatype: str) -> str:
    """Triton's configuration says TYPE_FP32 where the protocol says FP32."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _dims(spec: TensorSpec, batches: bool) -> list[int]:
    """The configuration leaves the batch dimension out."""
    return list(spec.shape[1:] if batches else spec.shape)
