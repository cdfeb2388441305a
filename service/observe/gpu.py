"""What NVIDIA's driver tells of each GPU, asked when the sidecar is asked. Needs the extra
`nvml`.

Knows nothing of models. A value that a card does not tell is left out, and so is every GPU once the driver fails.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from service.observe import metrics
from service.observe.merge import Merged, words_of
from service.observe.metrics import Metric

log = logging.getLogger("torchere.metrics")


class Gpus:
    """`gpus.add_to(merged)`; finds the driver when it is first asked, and never again where there is none."""

    def __init__(self, import_nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        self._nvml: Any = None
        try:
            nvml = import_nvml()
            nvml.nvmlInit()
            self._nvml = nvml
        except ImportError:
            log.debug("no metrics of GPUs: install torchere[nvml] for them")
        except Exception as error:  # noqa: BLE001 - NVMLError, whose class is only known where the module is
            log.debug("no metrics of GPUs: %s", error)

    def add_to(self, merged: Merged) -> None:
        """Put what the driver tells now among what was counted."""
        if self._nvml is None:
            return
        told: dict[str, dict[tuple[str, ...], int]] = {}
        for index in range(self._ask(self._nvml.nvmlDeviceGetCount) or 0):
            handle = self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            uuid = self._ask(self._nvml.nvmlDeviceGetUUID, handle)
            if uuid is None:
                continue
            labels = (str(index), _string(uuid), _string(self._ask(self._nvml.nvmlDeviceGetName, handle) or ""))
            for metric, value in self._values(handle):
                told.setdefault(metric.name, {})[labels] = value
        merged |= {name: words_of(values) for name, values in told.items()}

    def _values(self, handle: Any) -> list[tuple[Metric, int]]:
        """Whole numbers in the units of NVML, which the metrics' scales turn into ours."""
        nvml = self._nvml
        rates, memory = (
            self._ask(nvml.nvmlDeviceGetUtilizationRates, handle),
            self._ask(nvml.nvmlDeviceGetMemoryInfo, handle),
        )
        found = {
            metrics.GPU_UTILISATION: rates.gpu if rates else None,  # percent
            metrics.GPU_USED: memory.used if memory else None,
            metrics.GPU_TOTAL: memory.total if memory else None,
            metrics.GPU_POWER: self._ask(nvml.nvmlDeviceGetPowerUsage, handle),  # milliwatts
            metrics.GPU_LIMIT: self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
            metrics.GPU_ENERGY: self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle),  # millijoules
            metrics.GPU_TEMPERATURE: self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        }
        return [(metric, int(value)) for metric, value in found.items() if value is not None]

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None  # this card, or this driver, does not tell


def _string(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
