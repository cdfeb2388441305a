"""Run as a process of its own: Triton's client with CUDA shared memory, from its own helpers, against `affine`.

python -m tests.gpu.triton_memory PROTOCOL URL      prints what came as JSON
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np
import tritonclient.utils.cuda_shared_memory as memory


def main(protocol: str, url: str) -> dict[str, Any]:
    triton = importlib.import_module(f"tritonclient.{protocol}")
    client = triton.InferenceServerClient(url)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    name = f"triton {protocol}"
    region = memory.create_shared_memory_region(name, 4096, 0)
    memory.set_shared_memory_region(region, [x, x + 1])
    handle = memory.get_raw_handle(region)
    client.register_cuda_shared_memory(name, handle, 0, 4096)
    status = client.get_cuda_shared_memory_status(name)
    inputs = [triton.InferInput(each, list(x.shape), "FP32") for each in ("x", "y")]
    for index, each in enumerate(inputs):
        each.set_shared_memory(name, x.nbytes, offset=index * x.nbytes)
    outputs = [triton.InferRequestedOutput(each) for each in ("sum", "scaled")]
    outputs[0].set_shared_memory(name, x.nbytes, offset=0)  # over the input, which has been read by then
    answer = client.infer("affine", inputs, outputs=outputs)
    total = memory.get_contents_as_numpy(region, np.float32, [2, 4])
    client.unregister_cuda_shared_memory(name)
    listed = client.get_cuda_shared_memory_status()
    listed = list(listed.regions) if protocol == "grpc" else listed
    memory.destroy_shared_memory_region(region)
    return {
        "status": str(status),
        "sum": total.tolist(),
        "scaled": answer.as_numpy("scaled").tolist(),
        "left": len(listed),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
