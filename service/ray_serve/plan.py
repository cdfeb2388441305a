"""The Serve config of a model repository: what is deployed, on what share of a machine, and when there is more of it.

Pure: values in, a dict as `serve deploy` takes it out. `command.py` prints it, `app.py` is what it imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.repository.model_config import ModelConfig
from service.settings import Settings

INGRESS = "_ingress"  # no model's name begins so
APPLICATION = "torchere"
IMPORT_PATH = "service.ray_serve.app:application"
CLOSING_S = 5.0  # beyond the drain timeout, for sockets and the interpreter
UNKNOWN_BATCH = 16  # where the compiler chooses the batch size: it is not known before
KEPT_WAITING = 2  # batches for each instance: one that runs, one that is complete when the first has ended
INGRESS_ONGOING = 1000  # a request that waits costs an ingress little
# Ray gives each replica its device and threads, and HTTP is its proxies'.
NOT_OURS = ("models", "device", "threads", "frontends", "http_port")


@dataclass(frozen=True, slots=True)
class Wishes:
    """How many replicas of each model, and what each gets: `cpus`, `gpus` (a fraction lets several share one).

    `target` requests at each replica, waiting ones too, are what Ray scales for; None: what fills its batches.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    cpus: float = 1.0
    gpus: float = 0.0
    target: float | None = None
    ingresses: int = 2


def serve_config(models: Sequence[ModelConfig], settings: Settings, wishes: Wishes) -> dict[str, Any]:
    """The file for `serve deploy` and for RayService's serveConfigV2."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.host, "port": settings.http_port, "keep_alive_timeout_s": 75},
        "logging_config": {"enable_access_log": False},  # Ray's own: a line at every stop of a request; ours is enough
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": {
                    "models": [model.name for model in models],
                    "settings": settings.model_dump(mode="json", exclude_defaults=True, exclude=set(NOT_OURS))
                    | {"model_repository": str(settings.model_repository), "cache_dir": str(settings.cache_dir)},
                },
                "deployments": [_ingress(settings, wishes), *_models(models, settings, wishes)],
            }
        ],
    }


def _ingress(settings: Settings, wishes: Wishes) -> dict[str, Any]:
    return {
        "name": INGRESS,
        "num_replicas": wishes.ingresses,
        "max_ongoing_requests": INGRESS_ONGOING,
        "graceful_shutdown_timeout_s": settings.drain_timeout_s + CLOSING_S,
        "ray_actor_options": {"num_cpus": 1.0},
    }


def _models(models: Sequence[ModelConfig], settings: Settings, wishes: Wishes) -> list[dict[str, Any]]:
    with_state = {model.name for model in models if model.sequencing is not None}
    while True:  # what an ensemble calls runs in the ensemble's replicas, and ensembles may call ensembles
        callers = {model.name for model in models if _called(model) & with_state}
        if callers <= with_state:
            return [_model(model, settings, wishes, model.name in with_state) for model in models]
        with_state |= callers


def _called(model: ModelConfig) -> set[str]:
    return set() if model.ensemble is None else {step.model for step in model.ensemble.steps}


def _model(model: ModelConfig, settings: Settings, wishes: Wishes, has_state: bool) -> dict[str, Any]:
    full = (UNKNOWN_BATCH if model.max_batch_size is None else max(1, model.max_batch_size)) * model.instances
    target = float(full) if wishes.target is None else wishes.target
    deployment: dict[str, Any] = {
        "name": model.name,
        # Replicas batch what they hold: a limit below their batch size would bound the batches instead.
        "max_ongoing_requests": max(KEPT_WAITING * full, 2, round(KEPT_WAITING * target)),
        "max_queued_requests": model.batching.max_queue_size,
        "graceful_shutdown_timeout_s": settings.drain_timeout_s + CLOSING_S,
        "ray_actor_options": {"num_cpus": wishes.cpus, "num_gpus": wishes.gpus},
    }
    if has_state:  # a sequence's state is in one replica, and Ray promises no way back to it
        return {**deployment, "num_replicas": 1}
    scaling = {
        "min_replicas": wishes.min_replicas,
        "max_replicas": wishes.max_replicas,
        "target_ongoing_requests": target,
        "upscale_delay_s": 5.0,  # a replica takes seconds where its artifact is in the cache
        "downscale_delay_s": 300.0,
    }
    return {**deployment, "autoscaling_config": scaling}
