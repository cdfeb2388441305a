"""A whole service behind certificates, tokens, a prefix and a closed API, that keeps answers."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from service.client.rest import RestClient
from service.client.rpc import RpcClient
from service.errors import Forbidden, Unauthenticated, Unavailable
from service.security import SCOPES, token_line
from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer
from tests.service.certificates import Files, make_certificates

INPUTS = {"x": np.ones((1, 4), np.float32), "y": np.ones((1, 4), np.float32)}


class Secured(msgspec.Struct, frozen=True):
    """The server, and what its clients need."""

    server: RunningServer
    files: Files

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.http_port}/ai"

    def rest(self, token: str) -> RestClient:
        return RestClient(self.url, token=token, authority=self.files.authority)

    def rpc(self, token: str) -> RpcClient:
        return RpcClient(f"grpcs://localhost:{self.server.grpc_port}", token=token, authority=self.files.authority)

    def is_settled(self) -> bool:
        """Whether the winner serves: its answers are not those that were kept of the fallback."""
        try:
            with self.rest("all") as client:
                return [each["optimization"] for each in client.models()] == ["optimised"]
        except Unavailable:
            return False


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, cache: Path, logs: Path) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    files = make_certificates(folder)
    tokens = folder / "tokens"
    tokens.write_text(f"{token_line('all', SCOPES)}\n{token_line('some', ['infer'])}\n")
    shutil.copytree(ROOT / "tests" / "models" / "affine", folder / "models" / "affine")
    with (folder / "models" / "affine" / "model.yaml").open("a") as file:
        file.write("response_cache: true\n")
    flags = {
        "--tls-certificate": files.certificate,
        "--tls-key": files.key,
        "--token-file": tokens,
        "--http-prefix": "/ai",
        "--restricted-api": "trace",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    with RunningServer(folder / "models", cache, logs, "--metrics-tls", *words, wait=False) as server:
        made = Secured(server, files)
        server.wait_for(made.is_settled, "the winner to serve")
        yield made


def test_answers_are_kept_and_counted(secured: Secured) -> None:
    with secured.rest("some") as rest, secured.rpc("some") as rpc, secured.rest("all") as operator:
        answers = [client.infer("affine", INPUTS) for client in (rest, rest, rpc)]
        assert [sorted(each) for each in answers] == [["scaled", "sum"]] * 3
        np.testing.assert_array_equal(answers[0]["sum"], answers[2]["sum"])
        stats = operator.statistics("affine")["model_stats"][0]["inference_stats"]
    assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) == (2, 1)
    assert (stats["success"]["count"], stats["compute_infer"]["count"]) == (3, 1)


def test_every_door_asks_for_the_token(secured: Secured) -> None:
    for client in (secured.rest("wrong"), secured.rpc("wrong")):
        with client, pytest.raises(Unauthenticated):
            client.infer("affine", INPUTS)
    for client in (secured.rest("some"), secured.rpc("some")):
        with client, pytest.raises(Forbidden, match="lacks the scope 'read'"):
            client.statistics("affine")


def test_metrics_ask_too_and_closed_apis_are_closed(secured: Secured) -> None:
    def ask(url: str, token: str) -> int:
        context = ssl.create_default_context(cafile=secured.files.authority)
        return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, verify=context).status_code

    metrics = f"https://localhost:{secured.server.metrics_port}/metrics"
    assert [ask(metrics, token) for token in ("wrong", "some", "all")] == [401, 403, 200]
    assert ask(f"{secured.url}/v2/trace/setting", "all") == 403
    assert ask(f"{secured.url.removesuffix('/ai')}/v2", "all") == 404


def test_certificates_are_renewed_while_it_runs(secured: Secured, tmp_path: Path) -> None:
    """By one that the authority of before does not vouch for; the tests behind this one trust the new one."""
    new = make_certificates(tmp_path)
    for made, served in ((new.key, secured.files.key), (new.certificate, secured.files.certificate)):
        shutil.copy(made, served)

    def is_renewed() -> bool:
        for port in (secured.server.http_port, secured.server.grpc_port, secured.server.metrics_port):
            if ssl.get_server_certificate(("localhost", port)) != new.certificate.read_text():
                return False
        return True

    secured.server.wait_for(is_renewed, "the new certificate at every door")
    shutil.copy(new.authority, secured.files.authority)
    with secured.rest("some") as rest, secured.rpc("some") as rpc:
        for client in (rest, rpc):
            client.infer("affine", INPUTS)
    assert "has been renewed" in secured.server.log()


def test_the_command_line_reaches_it(secured: Secured) -> None:
    environment = {**os.environ, "TORCHERE_TOKEN": "all", "SSL_CERT_FILE": str(secured.files.authority)}
    command = [sys.executable, "-m", "service.cli", "models", "--url", secured.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "affine" in done.stdout) == (0, True), done.stderr
