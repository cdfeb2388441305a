"""The application that a Serve config imports: a deployment for each model, and the ingress before them.

    import_path: service.ray_serve.app:application

Imports Ray, which comes with the extra [ray]. `plan.py` makes the config, which also says how many replicas of what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import exceptions, serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from service.observe.logs import set_up_logging
from service.ray_serve.handles import Faults
from service.ray_serve.ingress import Ingress
from service.ray_serve.plan import INGRESS
from service.ray_serve.replica import Replica
from service.settings import Settings

FAULTS = Faults(
    lost=(exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError, ReplicaUnavailableError),
    full=(BackPressureError,),
    absent=(DeploymentUnavailableError,),
)


def application(args: dict[str, Any]) -> Any:
    """`args`: the `settings` of the service, and the `models`, each of which is deployed under its name."""
    settings, models = Settings.model_validate(args["settings"]), tuple(args["models"])
    given = settings.model_dump(mode="json", exclude_unset=True)
    deployments = [serve.deployment(Replica).options(name=name).bind(name, given) for name in models]
    ingress = serve.deployment(serve.ingress(_ingress_of(given, models))()).options(name=INGRESS)
    return ingress.bind(*deployments)


def _ingress_of(given: dict[str, Any], models: tuple[str, ...]) -> Callable[[], Ingress]:
    def build() -> Ingress:
        """Called in each replica of the ingress."""
        name = serve.get_replica_context().app_name
        handles = {model: serve.get_deployment_handle(model, name) for model in models}
        settings = Settings.model_validate(given)
        set_up_logging(settings.log_format, settings.log_level, "ingress")
        return Ingress(settings, handles, FAULTS)

    return build
