"""The HTTP client that users import: numpy arrays in, numpy arrays out, errors of the same tree as the server's.

    client = RestClient("http://127.0.0.1:8000")
    client.infer("digits", {"image": np.zeros((1, 1, 8, 8), np.float32)})["probabilities"]

A server that asks for a `token` gets it; `authority` is the file by which its certificate is judged, in PEM, where that
is none that this machine trusts anyway; `certificate` and `key` are the client's own, for mutual TLS. Knows no torch.
`rpc.py` is the same over gRPC.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import orjson

from service.errors import ServiceError, Unavailable, from_code
from service.rest.errors import STATUS
from service.tensors import NUMPY_TYPES, Tensor, to_numpy

DATATYPES = {dtype: name for name, dtype in NUMPY_TYPES.items()}
CODES = {status: code for code, status in reversed(list(STATUS.items()))}
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


class RestClient:
    """Synchronous; one connection pool; use it as a context manager or call `close`."""

    def __init__(
        self,
        url: str,
        timeout_s: float = 60.0,
        *,
        token: str = "",
        authority: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """Raises OSError, ssl.SSLError being one, where a file cannot be used; `key` may stand in `certificate` too."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        context = httpx.create_ssl_context() if authority is None else ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        self._http = httpx.Client(base_url=url, timeout=timeout_s, headers=headers, verify=context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """True when the server serves all that it should."""
        return self._send("GET", "/v2/health/ready", checked=False).status_code == 200

    def models(self) -> list[dict[str, Any]]:
        """Every version of every model, as GET /v1/models tells it."""
        return list(self._send("GET", "/v1/models").json()["entries"])

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """What `model` takes and gives. Raises ServiceError as the server reports it."""
        return dict(self._send("GET", f"/v2/{_path(model, version)}").json())

    def statistics(self, model: str, version: str = "") -> dict[str, Any]:
        """How often and how long `model` has run, phase by phase. Raises ServiceError as the server reports it."""
        return dict(self._send("GET", f"/v2/{_path(model, version)}/stats").json())

    def infer(
        self, model: str, inputs: dict[str, np.ndarray[Any, Any]], version: str = ""
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs by name; tensors travel as bytes. Raises ServiceError as the server reports it."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        header = orjson.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "datatype": DATATYPES[array.dtype],
                        "shape": array.shape,
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                    for name, array in arrays.items()
                ],
                "parameters": {"binary_data_output": True},
            }
        )
        answer = self._send(
            "POST",
            f"/v2/{_path(model, version)}/infer",
            content=b"".join([header, *(array.tobytes() for array in arrays.values())]),
            headers={"Inference-Header-Content-Length": str(len(header))},
        )
        return _outputs(answer)

    def infer_by_name(
        self, model: str, body: bytes, content_type: str, version: str = "", top: int = 0
    ) -> dict[str, Any]:
        """v1: a JSON body `{"inputs": {...}}` or an image file; `top` > 0 answers classes with labels."""
        headers = {"Content-Type": content_type}
        return dict(
            self._send(
                "POST", f"/v1/{_path(model, version)}/infer", content=body, headers=headers, params={"top": top}
            ).json()["outputs"]
        )

    def _send(self, method: str, path: str, checked: bool = True, **arguments: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"no answer from {self._http.base_url}: {error}: is `torchere serve` running there?"
            ) from error
        if checked and answer.status_code != 200:
            raise _error(answer)
        return answer


def content_type_of(file: Path) -> str:
    """By the file's ending; JSON where it is no image."""
    return IMAGE_TYPES.get(file.suffix.lower(), "application/json")


def _path(model: str, version: str) -> str:
    return f"models/{model}/versions/{version}" if version else f"models/{model}"


def _outputs(answer: httpx.Response) -> dict[str, np.ndarray[Any, Any]]:
    size = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    blobs, arrays = memoryview(answer.content)[size:], {}
    for output in orjson.loads(answer.content[:size])["outputs"]:
        length = output["parameters"]["binary_data_size"]
        tensor = Tensor(output["name"], output["datatype"], tuple(output["shape"]), blobs[:length])
        arrays[tensor.name], blobs = to_numpy(tensor), blobs[length:]
    return arrays


def _error(answer: httpx.Response) -> ServiceError:
    try:
        message = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):  # not a server of ours: show what came
        message = f"HTTP {answer.status_code}: {answer.text[:200]}"
    code = CODES.get(answer.status_code)
    return from_code(code, message) if code else ServiceError(message)
