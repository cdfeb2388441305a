"""A real Prometheus for a test, from `make tools`, with the configuration and the rules that are deployed.

Knows how expressions of dashboards, alerts and adapters become queries. `test_monitoring.py` asks them.
"""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.e2e.running import free_ports

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build/tools/bin/prometheus"
DEPLOYED = ROOT / "deploy/prometheus"
COMPARISON = re.compile(r"([<>]=?|[=!]=)(?![~])(?! *bool)")
SELECTOR = re.compile(r"\{[^}]*\}")

Job = tuple[str, str, Mapping[str, str]]  # its name, the address, labels of the target


class Refused(Exception):
    """Prometheus does not understand an expression."""


class RunningPrometheus:
    """`with RunningPrometheus(folder, jobs) as prometheus:` scrapes and judges once a second."""

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        self._log = folder / "prometheus.log"
        config = yaml.safe_load((DEPLOYED / "prometheus.yaml").read_text())
        config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
        config["rule_files"] = [str(DEPLOYED / name) for name in config["rule_files"]]
        config["scrape_configs"] = [
            {"job_name": name, "static_configs": [{"targets": [address], "labels": dict(labels)}]}
            for name, address, labels in jobs
        ]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._command = [
            *(PROGRAM, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn"),
        ]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        if error is not None:
            print(self._log.read_text())

    def ask(self, path: str, **parameters: str) -> Any:
        """What the API says. Raises Refused, and OSError where nobody answers yet."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{parameters}: {error.read().decode()}") from error

    def has_data(self, expr: str) -> bool:
        """Whether an expression gives numbers now."""
        found = self.ask("query", query=expr)
        samples = [found] if found["resultType"] == "scalar" else found["result"]
        values = [each[1] if isinstance(each, list) else each["value"][1] for each in samples]
        return any(math.isfinite(float(value)) for value in values)

    def values(self, query: str) -> list[str]:
        """What Grafana's `label_values(metric{...}, label)` gives."""
        matched = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert matched is not None, query
        return list(self.ask(f"label/{matched[2]}/values", **{"match[]": matched[1]}))


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with Grafana's variables filled in; one that nobody knows is an error."""
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: variables[found[1] or found[2]], text)


def judged(expr: str) -> str:
    """An alert's expression so that it gives data also where nothing is wrong: 0 in place of nothing."""
    expr = re.sub(r"\babsent\((.+)\)$", r"\1", expr)
    parts, selectors = SELECTOR.split(expr), SELECTOR.findall(expr)
    parts = [COMPARISON.sub(r"\1 bool", part) for part in parts]
    return "".join(part + selector for part, selector in zip(parts, [*selectors, ""], strict=True))
