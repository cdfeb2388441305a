"""What `torchere models` and `torchere infer` print: a running server's models, and its answers to files.

Uses `rest.py`; knows no torch. `options.py` has what names the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.client.options import Server
from service.client.rest import RestClient, content_type_of
from service.errors import InvalidInput, ServiceError

PLAIN_WIDTH = 160  # where the output is a file or a pipe, lines must not be folded at 80


def show_models(server: Server, as_json: bool) -> bool:
    """Print the models of the server; False where it does not answer."""
    try:
        with _connect(server) as client:
            models = client.models()
    except ServiceError as error:
        return _complain(error)
    if as_json:
        print(json.dumps(models, indent=1))
        return True
    table = Table()
    for column in ("model", "version", "state", "served by", "device", "source", "inputs", "outputs"):
        table.add_column(column, overflow="fold")
    for model in models:
        serving = " ".join(filter(None, (model["backend"], model["precision"], model.get("variant", ""))))
        row = [model["name"], model["version"], describe_state(model), serving, model["device"], model["source"]]
        table.add_row(*(escape(text) for text in [*row, _tensors(model["inputs"]), _tensors(model["outputs"])]))
    _console().print(table)
    return True


def describe_state(model: Mapping[str, Any]) -> str:
    """`READY`, what the compiler still does for it, or why it is not ready; servers of before said nothing of it."""
    reason, progress = model["reason"], model.get("progress", "")
    match model.get("optimization", ""):
        case "compiling" if model["state"] == "READY":
            return f"READY, a faster artifact is being compiled: {progress}" if progress else "READY, compiling"
        case "fallback" if model["state"] == "READY":
            return f"READY as it is, not compiled: {progress}" if progress else "READY as it is, not compiled"
    return f"{model['state']}: {reason}" if reason else str(model["state"])


def infer_files(server: Server, model: str, version: str, files: Sequence[Path], top: int) -> bool:
    """Print the answer for each file; False where one of them got none."""
    try:
        with _connect(server) as client:
            for file in files:
                outputs = client.infer_by_name(model, file.read_bytes(), content_type_of(file), version, top)
                _show_outputs(file, outputs, top)
    except ServiceError as error:
        return _complain(error)
    return True


def _connect(server: Server) -> RestClient:
    try:
        return RestClient(
            server.url,
            token=server.token,
            authority=server.authority,
            certificate=server.certificate,
            key=server.key,
        )
    except OSError as error:  # a file that OpenSSL cannot use, too
        raise InvalidInput(f"{server.options} cannot be used: {error.strerror or error}: give files in PEM") from error


def _show_outputs(file: Path, outputs: dict[str, Any], top: int) -> None:
    console = _console()
    for name, rows in outputs.items():
        if not top:
            console.print(f"{file.name} {name}: {json.dumps(rows)}", markup=False, highlight=False, soft_wrap=True)
            continue
        for index, row in enumerate(rows if rows and isinstance(rows[0], list) else [rows]):
            table = Table(title=f"{escape(file.name)}: {name}" + (f", row {index}" if len(rows) > 1 else ""))
            table.add_column("label")
            table.add_column("value", justify="right")
            for item in row:
                table.add_row(escape(item.get("label", str(item["index"]))), f"{item['value']:.4f}")
            console.print(table)


def _tensors(specs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{spec['name']} {spec['datatype']} {spec['shape']}" for spec in specs)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def _complain(error: ServiceError) -> bool:
    Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    return False
