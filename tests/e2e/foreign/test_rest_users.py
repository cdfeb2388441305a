"""What users of TensorFlow Serving and TorchServe send with `requests`, as those servers' own pages have it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib

import numpy as np
import pytest
import requests

from tests.e2e.running import RunningServer

ROW, SUM = {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}, [0, 2, 4, 6]
DIGIT = np.zeros((1, 8, 8), np.float32)


@pytest.fixture
def url(open_server: RunningServer) -> str:
    return open_server.http


def test_tensorflow_serving(url: str) -> None:
    model = f"{url}/v1/models/affine"
    status = requests.get(model, timeout=30).json()["model_version_status"]
    assert [(each["version"], each["state"], each["status"]["error_code"]) for each in status] == [
        ("1", "AVAILABLE", "OK")
    ]
    signature = requests.get(f"{model}/metadata", timeout=30).json()["metadata"]["signature_def"]["signature_def"]
    assert set(signature["serving_default"]["inputs"]) == {"x", "y"}
    rows = {"signature_name": "serving_default", "instances": [ROW, ROW]}
    columns = {"inputs": {name: [row] * 2 for name, row in ROW.items()}}
    for path in (":predict", "/versions/1:predict"):
        answer = requests.post(model + path, data=json.dumps(rows), timeout=30).json()
        assert answer == {"predictions": [{"sum": SUM, "scaled": SUM}] * 2}
    assert requests.post(f"{model}:predict", json=columns, timeout=30).json() == {
        "outputs": {"sum": [SUM] * 2, "scaled": [SUM] * 2}
    }
    packed = {"b64": base64.b64encode(DIGIT.tobytes()).decode()}
    one = requests.post(f"{url}/v1/models/digits:predict", json={"instances": [packed]}, timeout=30).json()
    assert np.shape(one["predictions"]) == (1, 10)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/models/nobody:predict", {"instances": [1]}, 404),
        ("/v1/models/affine/versions/9:predict", {"instances": [ROW]}, 404),
        ("/v1/models/affine:predict", {"instances": [ROW], "inputs": ROW}, 400),
        ("/v1/models/affine:regress", {"examples": [ROW]}, 501),
    ],
)
def test_mistakes_of_a_user_of_tensorflow_serving(url: str, path: str, body: object, status: int) -> None:
    answer = requests.post(url + path, json=body, timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert list(answer.json()) == ["error"]


def test_torchserve(url: str) -> None:
    assert requests.get(f"{url}/ping", timeout=30).json() == {"status": "Healthy"}
    predictions = f"{url}/predictions/digits"
    ways = (
        requests.post(predictions, json=DIGIT.tolist(), timeout=30),
        requests.put(f"{predictions}/1", data=json.dumps({"data": DIGIT.tolist()}), timeout=30),
        requests.post(predictions, files={"data": ("digit.json", json.dumps(DIGIT.tolist()))}, timeout=30),
        requests.post(predictions, data={"data": json.dumps(DIGIT.tolist())}, timeout=30),
    )
    answers = [answer.json() for answer in ways]
    assert [answer.status_code for answer in ways] == [200] * len(ways), answers
    assert np.size(answers[0]) == 10
    # What serves may be swapped between two requests: its last digits then differ.
    assert all(np.allclose(answer, answers[0], rtol=1e-4, atol=1e-6) for answer in answers)


def test_bodies_packed_and_tensors_as_files(url: str) -> None:
    model, saved = f"{url}/v1/models/digits/infer", io.BytesIO()
    np.save(saved, DIGIT[None])
    accepted = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    plain = requests.post(model, data=saved.getvalue(), headers=accepted, timeout=30)
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        headers = {**accepted, "Content-Encoding": encoding, "Accept-Encoding": encoding}
        answer = requests.post(model, data=pack(saved.getvalue()), headers=headers, timeout=30)
        assert answer.headers["Content-Encoding"] == encoding
        found, expected = (np.load(io.BytesIO(each.content)) for each in (answer, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    refused = requests.post(model, data=b"x", headers={"Content-Encoding": "br"}, timeout=30)
    assert (refused.status_code, refused.headers["Accept-Encoding"]) == (400, "gzip, deflate")


def test_texts_in_parts_as_server_sent_events(url: str) -> None:
    story, asked = f"{url}/v2/models/story", {"text_input": "the", "max_tokens": 5}
    with requests.post(f"{story}/generate_stream", json=asked, stream=True, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines(decode_unicode=True) if line]
    assert [json.loads(event)["text_output"] for event in events] == list(" quic")
    one = requests.post(f"{story}/generate", json={**asked, "max_tokens": 1}, timeout=30).json()
    assert (one["model_name"], one["text_output"]) == ("story", " ")
    several = requests.post(f"{story}/generate", json=asked, timeout=30)
    assert (several.status_code, list(several.json())) == (400, ["error"])
