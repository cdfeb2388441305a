"""Every public call of kserve's Python clients, as their users make it; prints what came of it as JSON.

    build/clients/kserve/bin/python kserve_calls.py http://127.0.0.1:8000 127.0.0.1:8001

It runs in kserve's own environment, without this project. It judges nothing: test_kserve.py does.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import sys
from collections.abc import Awaitable
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)
INSTANCES = {"instances": [{"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}] * 2}


class Recorder:
    """The client itself, and the names of its calls that were made."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.client, name)


async def failure(call: Awaitable[Any]) -> list[str]:
    try:
        await call
    except Exception as error:  # noqa: BLE001  # classes of httpx, grpc and kserve
        return [type(error).__name__, str(error)]
    return ["", "no error"]


def request(is_binary: bool, model: str = "affine") -> InferRequest:
    inputs = []
    for name in ("x", "y"):
        made = InferInput(name, [1, 4], "FP32")
        made.set_data_from_numpy(ROW, binary_data=is_binary)
        inputs.append(made)
    wanted = [RequestedOutput("sum", {"binary_data": is_binary})]
    return InferRequest(model_name=model, infer_inputs=inputs, request_id="42", request_outputs=wanted)


def outputs(answer: Any) -> dict[str, Any]:
    return {"id": answer.id, **{each.name: each.as_numpy().tolist() for each in answer.outputs}}


async def rest_v1(url: str, client: Any) -> dict[str, Any]:
    return {
        "live": await client.is_server_live(url),
        "ready": await failure(client.is_server_ready(url)),
        "models": [await client.is_model_ready(url, name) for name in ("affine", "times")],
        "unknown": await failure(client.is_model_ready(url, "nobody")),
        "infer": await client.infer(url, INSTANCES, model_name="affine", headers={"x-user": "somebody"}, timeout=20),
        "explain": await failure(client.explain(url, "affine", INSTANCES)),
        "mistake": await failure(client.infer(url, {"instances": [[1]]}, model_name="affine")),
        "graph": await client.infer(f"{url}/v1/models/affine:predict", INSTANCES, is_graph_endpoint=True),
    }


async def rest_v2(url: str, client: Any) -> dict[str, Any]:
    headers: dict[str, str] = {}
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "models": [await client.is_model_ready(url, name) for name in ("affine", "times", "nobody")],
        "binary": outputs(await client.infer(url, request(True), model_name="affine", response_headers=headers)),
        "JSON": outputs(await client.infer(url, request(False), model_name="affine")),
        "headers": sorted(headers),
        "mistake": await failure(client.infer(url, request(True, "nobody"), model_name="nobody")),
    }


async def rpc(client: Any) -> dict[str, Any]:
    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(timeout=20),
        "models": [await client.is_model_ready(name) for name in ("affine", "times")],
        "unknown": await client.is_model_ready("nobody"),
        "binary": outputs(await client.infer(request(True), timeout=20, headers=[("x-user", "somebody")])),
        "typed": outputs(await client.infer(request(False))),
        "mistake": await failure(client.infer(request(True, "nobody"))),
    }


def public(kind: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


async def main(url: str, rpc_address: str) -> None:
    logging.disable(logging.CRITICAL)  # these clients log the errors that they raise
    v1, v2 = (Recorder(InferenceRESTClient(RESTConfig(protocol=name, timeout=20))) for name in ("v1", "v2"))
    grpc = Recorder(InferenceGRPCClient(rpc_address))
    came: dict[str, Any] = {"v1": await rest_v1(url, v1), "v2": await rest_v2(url, v2), "grpc": await rpc(grpc)}
    for client in (v1, v2, grpc):
        await client.close()
    came["called"] = {"rest": sorted(v1.called | v2.called), "grpc": sorted(grpc.called)}
    came["public"] = {"rest": public(InferenceRESTClient), "grpc": public(InferenceGRPCClient)}
    print(json.dumps(came))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
