"""The command line: parse, then call one function.

    torchere serve --model-repository models
    torchere compile digits --report digits.html
    torchere models
    torchere models show digits
    torchere infer digits input.json
    torchere bench digits --concurrency 1:64
    torchere token infer read --file tokens
    torchere cache list
    torchere deploy ray

Imports of heavy parts happen inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service import __version__
from service import settings as configuration
from service.bench.command import bench
from service.client.options import Server, identity_options, server_options
from service.flags import options
from service.observe.store import metrics_folder
from service.ray_serve.command import deploy
from service.security import SCOPES, append_line, token_line
from service.triton_flags import translate, triton_options

if TYPE_CHECKING:
    from service.serve import Server as Running

CONFIG_OPTION = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Settings file (YAML). Default: ./torchere.yaml."
)
PAGE = click.Path(dir_okay=False, path_type=Path)
JSON_OPTION = click.option(
    "--json", "as_json", is_flag=True, help="Print what the server answers, for a program to read."
)
# What decides under which key a model lies in the cache, and where that is.
WHERE = ("model_repository", "cache_dir", "device", "threads", "compile_timeout_s", "trust")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="torchere")
def main() -> None:
    """Serve PyTorch models: compiled for this machine, verified, batched, over HTTP and gRPC."""


@main.command()
@options()
@triton_options
@CONFIG_OPTION
def serve(config_file: Path | None, **given: Any) -> None:
    """Compile the models of a repository (or take them from the cache) and serve them.

    A first start compiles, which takes from seconds to minutes for each model; later starts take the artifacts
    from the cache. Ctrl-C or SIGTERM finishes the accepted requests, then stops; a second one stops at once.
    """
    settings = _settings(config_file, translate(given))
    with metrics_folder(settings.metrics_directory) as directory:
        from service import serve as server
        from service.observe.logs import set_up_logging
        from service.repository.storage import RepositoryError
        from service.startup import StartupError
        from service.startup_table import print_startup

        set_up_logging(settings.log_format, settings.log_level, "torchere")

        def settled(running: Running) -> None:
            print_startup(running.catalog.entries(), running.addresses, settings.log_format)

        try:
            code = asyncio.run(server.serve(settings, directory, settled))
        except (StartupError, RepositoryError) as error:
            raise click.ClickException(str(error)) from error
    sys.exit(code)


@main.command("compile")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--report", "page", type=PAGE, help="Write one page of HTML on all these models.")
@click.option("--explain", is_flag=True, help="Say first, for each model, what changed since it was last compiled.")
@click.option("--dry-run", is_flag=True, help="Explain only, and compile nothing.")
@click.option(
    "--into-repository",
    is_flag=True,
    help="Also copy each artifact to MODEL/VERSION/artifacts, to travel with the model to machines like this one.",
)
@options(*WHERE, "cache_max_size")
@CONFIG_OPTION
def compile_command(
    models: tuple[str, ...],
    page: Path | None,
    explain: bool,
    dry_run: bool,
    into_repository: bool,
    config_file: Path | None,
    **given: Any,
) -> None:
    """Compile models ahead of time into the cache, and show how each rung of the ladder did.

    Without MODEL, all models of the repository. A model that is in the cache already is not compiled again, nor one
    whose artifact was shipped with it.
    """
    from service.precompile import Wishes, precompile

    settings = _settings(config_file, {**given, "models": models or None})
    if not precompile(settings, Wishes(page, explain, dry_run, into_repository)):
        sys.exit(1)


@main.group(invoke_without_command=True)
@server_options
@JSON_OPTION
@click.pass_context
def models(context: click.Context, server: Server, as_json: bool) -> None:
    """Show the models of a running server, or (show) what the compiler made of one."""
    if context.invoked_subcommand is None:
        _list_models(server, as_json)


@models.command("list")
@server_options
@JSON_OPTION
def list_models(server: Server, as_json: bool) -> None:
    """Show the models of a running server: state, reason, what serves them, inputs and outputs."""
    _list_models(server, as_json)


@models.command("show")
@click.argument("model")
@click.option("--version", "model_version", default="", help="The version of the model. Default: the highest served.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest, for a program to read.")
@click.option("--report", "page", type=PAGE, help="Write the page of HTML that `compile --report` writes.")
@options(*WHERE)
@CONFIG_OPTION
def show_model(
    model: str, model_version: str, as_json: bool, page: Path | None, config_file: Path | None, **given: Any
) -> None:
    """Show what the compiler made of MODEL: its ladder, why the winner won, its hybrid map.

    Reads the cache, so no server needs to run: give the repository, device and threads that the server has.
    """
    from service.show import show_model

    settings = _settings(config_file, {**given, "models": (model,)})
    if not show_model(settings, model_version, as_json, page):
        sys.exit(1)


@main.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@server_options
@click.option("--version", "model_version", default="", help="The version of the model. Default: the server's choice.")
@click.option("--top", default=5, show_default=True, help="How many classes to print; 0 prints the raw outputs.")
def infer(model: str, files: tuple[Path, ...], server: Server, model_version: str, top: int) -> None:
    """Run FILES through a model of a running server and print the answers.

    A FILE is an image (.png, .jpg) for a model that takes images, or JSON: {"inputs": {NAME: VALUES}}.
    """
    from service.client.console import infer_files

    if not infer_files(server, model, model_version, files, top):
        sys.exit(1)


@main.command()
@click.option("--live", is_flag=True, help="Ask only whether it is up, not whether it serves all that it should.")
@click.option("--timeout", "timeout_s", default=3.0, show_default=True, help="Seconds to wait for its answer.")
@identity_options
@options("host", "http_port", "http_prefix", "tls_certificate", "tls_key", "tls_client_ca")
@CONFIG_OPTION
def health(
    live: bool, timeout_s: float, certificate: Path | None, key: Path | None, config_file: Path | None, **given: Any
) -> None:
    """Ask the server on this machine how it is: the exit status is 0 or 1. For the probes of containers.

    Where the server wants certificates of its clients (mutual TLS), it is shown --cert, by default its own.
    """
    from service.health import why_not

    settings = _settings(config_file, given)
    if certificate is None and settings.tls_client_ca is not None:
        certificate, key = settings.tls_certificate, settings.tls_key
    reason = why_not(
        "live" if live else "ready",
        (settings.host, settings.http_port),
        tls=settings.tls_certificate is not None,
        identity=(certificate, key) if certificate is not None else None,
        timeout_s=timeout_s,
        prefix=settings.http_prefix,
    )
    if reason:
        raise click.ClickException(reason)


@main.command()
@click.argument("scopes", nargs=-1, required=True, type=click.Choice(SCOPES))
@click.option("--file", "path", type=PAGE, help="Append its line to this token file. Default: print the line.")
@click.option("--note", default="", help="Who has it, for whoever reads the file.")
def token(scopes: tuple[str, ...], path: Path | None, note: str) -> None:
    """Make a token that lets its bearer do what SCOPES name, and print it: it is stored nowhere.

    The token file (setting token_file) holds its digest, in the line that this prints on stderr or appends.
    """
    made = f"tch_{secrets.token_urlsafe(32)}"
    line = f"{token_line(made, scopes)}  {' '.join(note.split())}".rstrip()
    if path is None:
        click.echo(line, err=True)
    else:
        try:
            append_line(path, line)
        except OSError as error:
            raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    click.echo(made)


@main.group()
def cache() -> None:
    """Look after the cache of compiled models."""


@cache.command("list")
@options("cache_dir")
@CONFIG_OPTION
def list_cache(config_file: Path | None, **given: Any) -> None:
    """List the artifacts: key, model, what serves it, size, last use; also those that were set aside."""
    from service.cache_commands import show_artifacts

    show_artifacts(_settings(config_file, given).cache_dir)


@cache.command("verify")
@options("cache_dir")
@CONFIG_OPTION
def verify_cache(config_file: Path | None, **given: Any) -> None:
    """Check every file of every artifact against its digest; the exit status is 1 where one is not sound."""
    from service.cache_commands import verify_artifacts

    if not verify_artifacts(_settings(config_file, given).cache_dir):
        sys.exit(1)


@cache.command("prune")
@click.option("--max-size", metavar="SIZE", help="Keep the most recently used up to this size: 500M, 10G.")
@click.option("--older-than", metavar="AGE", help="Remove what was not used for so long: 12h, 30d, 8w.")
@click.option("--broken", is_flag=True, help="Remove what was set aside and what is not sound.")
@options("cache_dir")
@CONFIG_OPTION
def prune_cache(
    max_size: str | None, older_than: str | None, broken: bool, config_file: Path | None, **given: Any
) -> None:
    """Remove artifacts, except those that a running server uses. Default: all; several options remove more."""
    from service.cache_commands import parse_age, parse_size, prune_artifacts

    try:
        size = None if max_size is None else parse_size(max_size)
        age_s = None if older_than is None else parse_age(older_than)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    prune_artifacts(_settings(config_file, given).cache_dir, size, age_s, broken)


main.add_command(bench)
main.add_command(deploy)


def _list_models(server: Server, as_json: bool) -> None:
    from service.client.console import show_models

    if not show_models(server, as_json):
        sys.exit(1)


def _settings(config_file: Path | None, given: dict[str, Any]) -> configuration.Settings:
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return configuration.load_settings(config_file, **values)
    except configuration.SettingsError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
