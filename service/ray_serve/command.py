"""`torchere deploy ray`: reads the model repository and prints what `serve deploy` takes.

Opens no model and needs no Ray, so that it also runs where neither is. `plan.py` decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from service.flags import options

OUT = click.Path(dir_okay=False, path_type=Path)
# Nodes have other working directories.
FILES = ("model_repository", "cache_dir", "token_file", "tls_certificate", "tls_key", "tls_client_ca")
EVERYWHERE = "0.0.0.0"  # requests of a cluster come from other machines


@click.group()
def deploy() -> None:
    """Write what another system needs to run this service."""


@deploy.command("ray")
@click.option("--output", type=OUT, help="Write the config to this file. Default: print it.")
@click.option("--min-replicas", default=1, show_default=True, type=click.IntRange(1), help="Of each model.")
@click.option("--max-replicas", default=4, show_default=True, type=click.IntRange(1), help="Of each model.")
@click.option(
    "--target-ongoing-requests",
    "target",
    type=click.FloatRange(0, min_open=True),
    help="Requests at each replica, waiting ones too, that Ray scales for. Default: as many as fill its batches.",
)
@click.option(
    "--cpus", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Cores of each replica."
)
@click.option(
    "--gpus", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="GPU of each replica; 0.25: a quarter."
)
@click.option(
    "--ingresses", default=2, show_default=True, type=click.IntRange(1), help="Replicas that speak HTTP and gRPC."
)
@options(
    *("model_repository", "models", "cache_dir", "trust", "startup", "host", "http_port", "grpc_port", "http_prefix"),
    *("token_file", "restricted_api", "tls_certificate", "tls_key", "tls_client_ca"),
    *("max_body_bytes", "drain_timeout_s", "compile_timeout_s", "log_format", "log_level", "access_log"),
    *("slow_request_ms", "tracing", "trace_endpoint", "trace_ratio"),
)
@click.option("--config", "config_file", type=OUT, help="Settings file (YAML). Default: ./torchere.yaml.")
def ray(config_file: Path | None, output: Path | None, **given: Any) -> None:
    """Write a Serve config for the models of a repository, each a deployment that grows with its queue.

    Repository and cache are folders that every node of the Ray cluster has under the same path.
    """
    from service.ray_serve.plan import Wishes

    wishes = Wishes(
        *(given.pop(name) for name in ("min_replicas", "max_replicas", "cpus", "gpus", "target", "ingresses"))
    )
    if wishes.max_replicas < wishes.min_replicas:
        raise click.UsageError(
            f"--max-replicas {wishes.max_replicas} is below --min-replicas {wishes.min_replicas}: raise the one"
        )
    text = _config(config_file, given, wishes)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error


def _config(config_file: Path | None, given: dict[str, Any], wishes: Any) -> str:
    import yaml

    from service.ray_serve.plan import serve_config
    from service.repository.storage import RepositoryError, scan
    from service.settings import SettingsError, load_settings

    values = {"host": EVERYWHERE} | {name: value for name, value in given.items() if value is not None}
    try:
        settings = load_settings(config_file, **values)
        found = scan(settings.model_repository, settings.models)
    except (SettingsError, RepositoryError) as error:
        raise click.ClickException(str(error)) from error
    paths = {name: getattr(settings, name) for name in FILES}
    settings = settings.model_copy(update={name: path.absolute() for name, path in paths.items() if path is not None})
    for model in found:
        if model.config is None:
            click.echo(f"left out: model {model.name}: {model.error}", err=True)
    configs = [model.config for model in found if model.config is not None]
    if not configs:
        raise click.ClickException(f"the model repository {settings.model_repository} has no model to deploy")
    return yaml.safe_dump(serve_config(configs, settings, wishes), sort_keys=False)
