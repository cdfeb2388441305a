"""TensorFlow Serving's REST API, which is KServe's v1 protocol too: predict in rows or columns, status, metadata.

    POST /v1/models/digits:predict  {"instances": [[[[0, 0, 5, ...]]]]}   ->  {"predictions": [...]}
    POST /v1/models/digits:predict  {"inputs": [[[[0, 0, 5, ...]]]]}      ->  {"outputs": [...]}

Translates only. A model has one signature here, `serving_default`; `{"b64": ...}` stands for bytes.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from compiler.spec import TensorSpec
from service.errors import InvalidInput, Unsupported
from service.plane import Plane
from service.repository.catalog import Entry, State
from service.rest.doors import Answer, Content, Translated, json_answer
from service.rest.json_text import parse_json, short
from service.rest.rows import only_column, rows_to_columns, to_columns, to_rows, without_name
from service.rest.v1 import read_columns
from service.tensors import InferRequest, InferResponse

SIGNATURE = "serving_default"
STATES = {
    State.LOADING: "LOADING",
    State.READY: "AVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNAVAILABLE: "END",
}
DTYPES = {
    **{"BOOL": "DT_BOOL", "BYTES": "DT_STRING", "BF16": "DT_BFLOAT16"},
    **{"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE"},
    **{f"{kind}{bits}": f"DT_{kind}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}


class Predict:
    """`await predict.translate(bare, content, verb)`: as `v1.py`, for the other form of request and answer."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def translate(self, bare: InferRequest, content: Content, verb: str = "predict") -> Translated:
        """The request for the plane, and how to write its answer. Raises ServiceError."""
        if verb != "predict":
            raise Unsupported(f":{verb} needs a model that has it as a signature, which none here has: use :predict")
        entry = self._plane.catalog.ready_entry(bare.model, bare.version)
        body = parse_json(content.body, content.limits)
        signature = body.get("signature_name", SIGNATURE)
        if signature not in (SIGNATURE, ""):
            raise InvalidInput(
                f"signature_name {short(signature)} is unknown: this server's models have one, '{SIGNATURE}'"
            )
        if ("instances" in body) == ("inputs" in body):
            raise InvalidInput("the request must have instances (one entry for each row) or inputs (all rows together)")
        is_rows = "instances" in body
        tensors = await read_columns(entry, _columns(entry, body, is_rows))
        return replace(bare, inputs=tensors), encode_rows if is_rows else encode_columns


def _columns(entry: Entry, body: dict[str, Any], is_rows: bool) -> dict[str, Any]:
    if is_rows:
        return rows_to_columns(entry, body["instances"])
    inputs = body["inputs"]
    if isinstance(inputs, dict) and inputs.keys() != {"b64"}:
        return inputs
    return only_column(entry, inputs)


def encode_rows(response: InferResponse) -> Answer:
    """`predictions`: one value for each row, by name where the model has several outputs."""
    columns, has_nan = to_columns(response)
    return json_answer({"predictions": without_name(columns) if len(columns) == 1 else to_rows(columns)}, has_nan)


def encode_columns(response: InferResponse) -> Answer:
    """`outputs`: the tensor, or each by name where there are several."""
    columns, has_nan = to_columns(response)
    return json_answer({"outputs": without_name(columns)}, has_nan)


def status(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    """`model_version_status`, the highest version first."""
    return [
        {
            "version": entry.version,
            "state": STATES[entry.state],
            "status": {"error_code": "OK", "error_message": ""}
            if entry.state is not State.UNAVAILABLE
            else {"error_code": "UNKNOWN", "error_message": entry.reason},
        }
        for entry in reversed(entries)
    ]


def metadata(entry: Entry) -> dict[str, Any]:
    """The signature of a version in the words of a SavedModel."""
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in entry.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in entry.outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": entry.name, "signature_name": "", "version": entry.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "dtype": DTYPES[spec.datatype],
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in spec.shape], "unknown_rank": False},
        "name": f"{spec.name}:0",
    }
