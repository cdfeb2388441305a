"""The command line: parse, then call one function.

    torchere serve --model-repository models
    torchere compile digits
    torchere models
    torchere infer digits input.json
    torchere cache list

Imports of heavy parts happen inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service import __version__
from service import settings as configuration

if TYPE_CHECKING:
    from service.serve import Server

CONFIG_OPTION = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Settings file (YAML). Default: ./torchere.yaml."
)
URL_OPTION = click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, envvar="TORCHERE_URL", help="The server's address."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="torchere")
def main() -> None:
    """Serve PyTorch models: compiled for this machine, verified, batched, over HTTP and gRPC."""


@main.command()
@configuration.options()
@CONFIG_OPTION
def serve(config_file: Path | None, **given: Any) -> None:
    """Compile the models of a repository (or take them from the cache) and serve them.

    A first start compiles, which takes from seconds to minutes for each model; later starts take the artifacts
    from the cache. Ctrl-C or SIGTERM finishes the accepted requests, then stops; a second one stops at once.
    """
    settings = _settings(config_file, given)
    with tempfile.TemporaryDirectory(prefix="torchere-metrics-") as directory:
        # prometheus_client reads this when it is first imported, in this process and in every child.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        from service import serve as server
        from service.observe.logs import set_up_logging
        from service.repository.storage import RepositoryError
        from service.startup_table import print_startup

        set_up_logging(settings.log_format, settings.log_level, "torchere")

        def settled(running: Server) -> None:
            print_startup(running.catalog.entries(), running.addresses, settings.log_format)

        try:
            code = asyncio.run(server.serve(settings, Path(directory), settled))
        except (server.StartupError, RepositoryError) as error:
            raise click.ClickException(str(error)) from error
    sys.exit(code)


@main.command("compile")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@configuration.options("model_repository", "cache_dir", "trust", "device", "threads", "compile_timeout_s")
@CONFIG_OPTION
def compile_command(models: tuple[str, ...], config_file: Path | None, **given: Any) -> None:
    """Compile models ahead of time into the cache, and show how each backend did.

    Without MODEL, all models of the repository. A model that is in the cache already is not compiled again.
    """
    from service.precompile import precompile

    settings = _settings(config_file, {**given, "models": models or None})
    if not precompile(settings):
        sys.exit(1)


@main.command()
@URL_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print what the server answers, for a program to read.")
def models(url: str, as_json: bool) -> None:
    """Show the models of a running server: state, reason, backend, inputs and outputs."""
    from service.client.console import show_models

    if not show_models(url, as_json):
        sys.exit(1)


@main.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@URL_OPTION
@click.option("--version", "model_version", default="", help="The version of the model. Default: the server's choice.")
@click.option("--top", default=5, show_default=True, help="How many classes to print; 0 prints the raw outputs.")
def infer(model: str, files: tuple[Path, ...], url: str, model_version: str, top: int) -> None:
    """Run FILES through a model of a running server and print the answers.

    A FILE is an image (.png, .jpg) for a model that takes images, or JSON: {"inputs": {NAME: VALUES}}.
    """
    from service.client.console import infer_files

    if not infer_files(url, model, model_version, files, top):
        sys.exit(1)


@main.group()
def cache() -> None:
    """Look after the cache of compiled models."""


@cache.command("list")
@configuration.options("cache_dir")
@CONFIG_OPTION
def list_cache(config_file: Path | None, **given: Any) -> None:
    """List the artifacts: key, backend, size, last use."""
    from service.cache_commands import show_artifacts

    show_artifacts(_settings(config_file, given).cache_dir)


@cache.command("verify")
@configuration.options("cache_dir")
@CONFIG_OPTION
def verify_cache(config_file: Path | None, **given: Any) -> None:
    """Check every file of every artifact against its digest."""
    from service.cache_commands import verify_artifacts

    if not verify_artifacts(_settings(config_file, given).cache_dir):
        sys.exit(1)


@cache.command("prune")
@click.option(
    "--max-size", default="0", show_default=True, help="Keep the most recently used up to this size: 500M, 10G."
)
@configuration.options("cache_dir")
@CONFIG_OPTION
def prune_cache(max_size: str, config_file: Path | None, **given: Any) -> None:
    """Remove the artifacts that were not used for longest. Default: all of them."""
    from service.cache_commands import parse_size, prune_artifacts

    try:
        size = parse_size(max_size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--max-size") from error
    prune_artifacts(_settings(config_file, given).cache_dir, size)


def _settings(config_file: Path | None, given: dict[str, Any]) -> configuration.Settings:
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return configuration.load_settings(config_file, **values)
    except configuration.SettingsError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
