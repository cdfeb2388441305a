"""Asks a server over TLS as an unmodified user of tritonclient does, on both doors; prints what came back as JSON.

python tls_calls.py localhost:8000 localhost:8001 authority.pem TOKEN [client.pem client-key.pem]
"""

from __future__ import annotations

import json
import ssl
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as rpc
import tritonclient.http as rest
from geventhttpclient.response import HTTPConnectionClosed

HTTP, GRPC, AUTHORITY, TOKEN, *OWN = sys.argv[1:]
ROWS = np.array([[1.0, 2.5, -3.0]], np.float32)


def doubled(client: Any, library: Any) -> Any:
    tensor = library.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(ROWS)
    headers = {"Authorization" if library is rest else "authorization": f"Bearer {TOKEN}"}
    try:
        return client.infer("double", [tensor], headers=headers).as_numpy("y").tolist()
    except (OSError, HTTPConnectionClosed, rest.InferenceServerException, rpc.InferenceServerException) as error:
        return type(error).__name__


def context() -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=AUTHORITY)
    if OWN:
        made.load_cert_chain(*OWN)
    return made


def main() -> None:
    own = {"certificate_chain": OWN[0], "private_key": OWN[1]} if OWN else {}
    over_rest = rest.InferenceServerClient(HTTP, ssl=True, ssl_context_factory=context)
    over_rpc = rpc.InferenceServerClient(GRPC, ssl=True, root_certificates=AUTHORITY, **own)
    print(json.dumps({"http": doubled(over_rest, rest), "grpc": doubled(over_rpc, rpc)}))


if __name__ == "__main__":
    main()
