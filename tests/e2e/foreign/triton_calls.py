"""Every public call of one of tritonclient's four clients, as its users make it; prints what came of it as JSON.

    python -m tests.e2e.foreign.triton_calls grpc.aio 127.0.0.1:8001

A process of its own, since tritonclient's messages and ours claim the same protobuf names. It judges nothing:
test_tritonclient.py does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from tritonclient.utils import shared_memory as memory

from tests.e2e.foreign import triton_models
from tests.e2e.foreign.triton_client import ROW, TIMEOUT_S, Caller, carry, failure, now


class Calls(Caller):
    """Each method is one part of what a client can do."""

    async def infer(self, **options: Any) -> Any:
        return await now(self.client.infer("affine", self.rows(), **options))

    async def describe(self) -> dict[str, Any]:
        client = self.client
        index = await now(client.get_model_repository_index(**self.read))
        config = await now(client.get_model_config("affine", "1", **self.read))
        return {
            "live": await now(client.is_server_live(**self.both)),
            "ready": await now(client.is_server_ready(**self.both)),
            "models": [
                await now(client.is_model_ready(*named, **self.both))
                for named in (("affine",), ("affine", "1"), ("affine", "9"), ("times",), ("nobody",))
            ],
            "server": await now(client.get_server_metadata(**self.read)),
            "metadata": await now(client.get_model_metadata("affine", "1", **self.read)),
            "config": config if self.is_http else config["config"],
            "index": index if self.is_http else index["models"],
        }

    async def infer_with_options(self) -> dict[str, Any]:
        whole = await self.infer(
            **self.both,
            model_version="1",
            outputs=[self.output("scaled"), self.output("sum")],
            request_id="42",
            priority=1,
            timeout=9_000_000,
            parameters={"count": 3, "flag": True, "name": "some", "share": 0.5},
        )
        response = whole.get_response() if self.is_http else whole.get_response(as_json=True)
        scores = self.tensor("x", np.array([[1, 5]], np.float32))
        labels = await now(self.client.infer("poison", [scores], outputs=[self.output("y", class_count=2)]))
        return {
            "sum": whole.as_numpy("sum").tolist(),
            "scaled": whole.as_numpy("scaled").tolist(),
            "outputs": [each["name"] for each in response["outputs"]],
            "output": whole.get_output("sum") is not None,
            "answered by": [response["id"], response["model_name"], response["model_version"]],
            "unasked": (await self.infer()).as_numpy("scaled").tolist(),
            "in other ways": [each.as_numpy("sum").tolist() for each in await self.other_ways()],
            "labels": [each.decode() for each in labels.as_numpy("y").reshape(-1)],
        }

    async def other_ways(self) -> list[Any]:
        """Answers to one request in all the ways to carry it."""
        if not self.is_http:
            return [await self.infer(compression_algorithm=name) for name in ("gzip", "deflate")]
        answers = [
            await now(self.client.infer("affine", self.rows(there), outputs=[self.output("sum", back)]))
            for there in (True, False)
            for back in (True, False)
        ]
        for there in (None, "gzip", "deflate"):
            for back in ("gzip", "deflate"):
                packed = {"request_compression_algorithm": there, "response_compression_algorithm": back}
                answers.append(await self.infer(**packed))
        return answers

    async def errors(self) -> dict[str, Any]:
        client, patient = self.client, [self.tensor("x", np.ones((1, 2), np.float32))]
        if self.is_http:
            limit = {"conn_timeout": 0.1} if self.is_aio else {"network_timeout": 0.1}
            hasty = self.connect(**limit)
            late = await failure(lambda: hasty.infer("patient", patient))
            await now(hasty.close())
        else:
            late = await failure(lambda: client.infer("patient", patient, client_timeout=0.1))
        return {
            "unknown model": await failure(lambda: client.infer("nobody", self.rows())),
            "unknown version": await failure(lambda: client.infer("affine", self.rows(), model_version="9")),
            "missing input": await failure(lambda: client.infer("affine", self.rows()[:1])),
            "too late": late,
            "lives on": (await self.infer()).as_numpy("sum").tolist(),
        }

    async def at_once(self) -> list[Any]:
        """Eight requests under way together."""
        arrays = [ROW * factor for factor in range(8)]
        requests = [[self.tensor("x", array), self.tensor("y", array)] for array in arrays]
        if self.is_aio:
            answers = await asyncio.gather(*(self.client.infer("affine", each) for each in requests))
        elif self.is_http:
            waiting = [self.client.async_infer("affine", each, request_id="a", **self.both) for each in requests]
            answers = [each.get_result(timeout=TIMEOUT_S) for each in waiting]
        else:
            found: list[queue.Queue[Any]] = [queue.Queue() for _ in requests]
            for came, each in zip(found, requests, strict=True):
                self.client.async_infer(
                    "affine", each, lambda result, error, came=came: came.put(error or result), **self.both
                )
            answers = [came.get(timeout=TIMEOUT_S) for came in found]
        return [each.as_numpy("sum").tolist() for each in answers]

    async def cancel(self) -> str:
        """A request that its client gives up (gRPC only)."""
        patient = [self.tensor("x", np.ones((1, 2), np.float32))]
        if self.is_http:
            return "no such call"
        if self.is_aio:
            task = asyncio.ensure_future(self.client.infer("patient", patient))
            await asyncio.sleep(0.1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return "StatusCode.CANCELLED" if task.cancelled() else "answered"
        found: queue.Queue[Any] = queue.Queue()
        context = self.client.async_infer("patient", patient, lambda result, error: found.put(error))
        context.cancel()
        error = found.get(timeout=TIMEOUT_S)
        return str(error.status() if error else "answered")

    async def stream(self) -> list[Any]:
        """Three requests on one stream, the second a mistake (gRPC only)."""
        if self.is_http:
            return []
        options = {"request_id": "s", "priority": 1, "timeout": 9_000_000, "parameters": {"flag": True}}
        names = ("affine", "nobody", "affine")
        about = {"headers": {"x-user": "somebody"}, "compression_algorithm": "gzip", "stream_timeout": TIMEOUT_S}
        if self.is_aio:

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for name in names:
                    yield {"model_name": name, "inputs": self.rows(), "outputs": [self.output("sum")], **options}

            came = [each async for each in self.client.stream_infer(requests(), **about)]
        else:
            found: queue.Queue[tuple[Any, Any]] = queue.Queue()
            self.client.start_stream(lambda result, error: found.put((result, error)), **about)
            for name in names:
                self.client.async_stream_infer(name, self.rows(), enable_empty_final_response=True, **options)
            came = [found.get(timeout=TIMEOUT_S) for _ in names]
            self.client.stop_stream(cancel_requests=False)
        return [error.message() if error else result.as_numpy("sum").tolist() for result, error in came]

    async def statistics(self) -> dict[str, Any]:
        async def count() -> int:
            stats = await now(self.client.get_inference_statistics("affine", "1", **self.read))
            return int(stats["model_stats"][0]["inference_stats"]["success"]["count"])

        before = await count()
        for _ in range(3):
            await self.infer()
        everything = await now(self.client.get_inference_statistics(**self.read))
        return {"grown": await count() - before, "models": [each["name"] for each in everything["model_stats"]]}

    async def system_memory(self) -> dict[str, Any]:
        """Two inputs and an output in one region."""
        client, key = self.client, f"/foreign-{os.getpid()}"
        handle = memory.create_shared_memory_region("r", key, 64)
        try:
            memory.set_shared_memory_region(handle, [2 * ROW, 3 * ROW])
            await now(client.unregister_system_shared_memory(**self.both))
            await now(client.register_system_shared_memory("r", key, 48, offset=0, **self.both))
            status = await now(client.get_system_shared_memory_status("r", **self.read))
            inputs = [self.module.InferInput(name, [1, 4], "FP32") for name in "xy"]
            inputs[0].set_shared_memory("r", 16)
            inputs[1].set_shared_memory("r", 16, offset=16)
            output = self.module.InferRequestedOutput("sum")
            output.set_shared_memory("r", 16, offset=32)
            await now(client.infer("affine", inputs, outputs=[output]))
            result = memory.get_contents_as_numpy(handle, np.float32, [1, 4], offset=32).tolist()
            await now(client.unregister_system_shared_memory("r", **self.both))
        finally:
            memory.destroy_shared_memory_region(handle)
        left = await now(client.get_system_shared_memory_status(**self.read))
        return {"status": status if self.is_http else list(status["regions"].values()), "sum": result, "left": left}

    async def cuda_memory(self) -> dict[str, Any]:
        client = self.client
        register = client.register_cuda_shared_memory
        await now(client.unregister_cuda_shared_memory(**self.both))
        return {
            "status": await now(client.get_cuda_shared_memory_status(**self.read)),
            "register": await failure(lambda: register("r", b"aGFuZGxl", 0, 8, **self.both)),
        }

    async def settings(self) -> dict[str, Any]:
        client = self.client
        changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "3"}
        changed = await now(client.update_trace_settings("affine", changes, **self.read))
        trace = await now(client.get_trace_settings("affine", **self.read))
        await now(client.update_trace_settings("affine", {"trace_level": None, "trace_rate": None}, **self.both))
        cleared = await now(client.get_trace_settings(**self.read))
        log = await now(client.update_log_settings({"log_verbose_level": 1}, **self.read))
        logs = await now(client.get_log_settings(**self.read))
        await now(client.update_log_settings({"log_verbose_level": 0}, **self.both))
        return {"changed": changed, "trace": trace, "cleared": cleared, "log": log, "logs": logs}

    async def models(self, code: str, described: str) -> dict[str, Any]:
        """Load, load with a configuration as Model Analyzer does, with files, and unload."""
        client = self.client

        async def config() -> dict[str, Any]:
            found = await now(client.get_model_config("times", **self.read))
            return dict(found if self.is_http else found["config"])

        async def times() -> Any:
            x = self.tensor("x", np.array([[1, 2]], np.float32))
            return (await now(client.infer("times", [x]))).as_numpy("y").tolist()

        await now(client.load_model("times", **self.both))
        answers, sizes = [await times()], [(await config())["max_batch_size"]]
        smaller = json.dumps({**(await config()), "max_batch_size": 2})
        await now(client.load_model("times", config=smaller, **self.both))
        sizes.append((await config())["max_batch_size"])
        files = {"file:1/model.py": code.encode(), "file:model.yaml": described.encode()}
        await now(client.load_model("times", config="{}", files=files, **self.both))
        answers.append(await times())
        await now(client.unload_model("times", unload_dependents=True, **self.both))
        return {
            "answers": answers,
            "max_batch_size": sizes,
            "unknown": await failure(lambda: client.load_model("nobody")),
            "ready": await now(client.is_model_ready("times")),
        }

    async def plugin(self) -> list[Any]:
        """A plugin that adds a header to every request."""
        auth = importlib.import_module(f"tritonclient.{'http' if self.is_http else 'grpc'}.auth")
        self.client.register_plugin(auth.BasicAuth("somebody", "secret"))
        is_there, answer = self.client.plugin() is not None, (await self.infer()).as_numpy("sum").tolist()
        self.client.unregister_plugin()
        return [is_there, answer]

    async def without_connection(self) -> Any:
        """Bodies made and read by the client's class, carried by something else (HTTP only)."""
        if not self.is_http:
            return None
        body, size = self.client.generate_request_body(self.rows(), outputs=[self.output("sum")], request_id="7")
        answer, length = await asyncio.to_thread(carry, self.url, body, size)
        return self.client.parse_response_body(answer, header_length=length).as_numpy("sum").tolist()


async def main(flavour: str, url: str, code: str, described: str) -> None:
    calls = Calls(flavour, url)
    came = {
        "describe": await calls.describe(),
        "infer": await calls.infer_with_options(),
        "errors": await calls.errors(),
        "at once": await calls.at_once(),
        "cancel": await calls.cancel(),
        "stream": await calls.stream(),
        "statistics": await calls.statistics(),
        "system memory": await calls.system_memory(),
        "CUDA memory": await calls.cuda_memory(),
        "settings": await calls.settings(),
        "models": await calls.models(code, described),
        "texts": await triton_models.texts(calls),
        "story": await triton_models.story(calls),
        "sequences": await triton_models.sequences(calls),
        "plugin": await calls.plugin(),
        "without connection": await calls.without_connection(),
    }
    await now(calls.client.close())
    kind = calls.module.InferenceServerClient
    public = [name for name, what in inspect.getmembers(kind) if callable(what) and not name.startswith("_")]
    print(json.dumps({**came, "public": public, "called": sorted(calls.client.called)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
