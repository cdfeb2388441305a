"""CUDA graphs: a replay gives what the plain call gives, and a call that no graph can hold runs plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compiler.graphs import Graphs, find_difference
from compiler.spec import TensorSpec
from service.runtime.device import Device
from service.runtime.runner import Runner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

Inputs = tuple[Tensor, ...]


def network() -> Any:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).cuda().eval()
    return lambda inputs: (layers(inputs[0]), inputs[0].argmax(1))


def test_replays_equal_plain_calls_at_every_captured_size() -> None:
    model = network()
    graphs = Graphs(model, "cuda:0")
    for rows in (8, 4, 1):
        assert graphs.capture((torch.randn(rows, 16, device="cuda"),)) == ""
    with torch.inference_mode():
        for rows in (1, 8, 4, 3, 8):
            x = torch.randn(rows, 16, device="cuda")
            for got, want in zip(graphs.replay((x,)), model((x,)), strict=True):
                assert find_difference(got, want) == ""


@pytest.mark.parametrize(
    "waits",
    [
        lambda inputs: (inputs[0] * inputs[0].sum().item(),),
        lambda inputs: (inputs[0].nonzero(),),
        lambda inputs: ((inputs[0].cpu() + 1).cuda(),),
    ],
    ids=["item", "nonzero", "copy"],
)
def test_a_call_that_waits_for_the_gpu_is_refused_and_spoils_nothing(waits: Any) -> None:
    x = torch.randn(4, 16, device="cuda")
    assert "synchroniz" in Graphs(waits, "cuda:0").capture((x,))
    assert "no CUDA graph" in Graphs(waits, "cuda:0").capture((x,), is_known=True), "the recording itself broke"
    model = network()
    graphs = Graphs(model, "cuda:0")
    assert graphs.capture((x,)) == ""
    (got, _), (want, _) = graphs.replay((x,)), model((x,))
    assert find_difference(got, want) == ""


def test_a_recording_that_gives_other_answers_is_not_used() -> None:
    held = torch.randn(4, 16, device="cuda")

    def stale(inputs: Inputs) -> Inputs:
        return (inputs[0] * 0 + held,) if torch.cuda.is_current_stream_capturing() else (inputs[0],)

    x = torch.randn(4, 16, device="cuda")
    graphs = Graphs(stale, "cuda:0")
    assert "differs from the plain call" in graphs.capture((x,))
    with torch.inference_mode():
        assert torch.equal(graphs.replay((x,))[0], x)


def test_an_instance_replays_the_sizes_it_may_and_runs_the_others_plainly() -> None:
    device, model = Device("cuda:0", threads=2), network()
    spec, outputs = (
        TensorSpec("x", "FP32", (-1, 16)),
        [TensorSpec("y", "FP32", (-1, 8)), TensorSpec("k", "INT64", (-1,))],
    )
    runner = Runner(model, device, [spec], outputs, graphed=(8, 4))
    with device.stream():
        assert [runner.warm_up([(rows, 16)], rows) for rows in (8, 4)] == ["", ""]
        assert "not seen to be recordable" in runner.warm_up([(2, 16)], 2)
        kept = []
        for rows in (8, 2, 4, 8, 3):
            array = np.random.default_rng(rows).normal(size=(rows, 16)).astype(np.float32)
            (scores, best), phases = runner.run([[memoryview(array.tobytes())]], [(rows, 16)])
            kept.append((array, scores, best))
            assert all(phase >= 0 for phase in phases)
        for array, scores, best in kept:  # an answer that waits to be sent is not overwritten by the next batch
            want, most = model((torch.from_numpy(array).cuda(),))
            got = np.frombuffer(scores.data, np.float32).reshape(scores.shape)
            np.testing.assert_allclose(got, want.detach().cpu().numpy(), rtol=1e-4, atol=1e-5)
            assert np.frombuffer(best.data, np.int64).tolist() == most.tolist()


def test_two_batches_under_way_do_not_disturb_each_other() -> None:
    """Whichever size, with a graph or without, small outputs and those that leave before the next replay."""
    device = Device("cuda:0", threads=2)
    weight = torch.randn(64, 256, device="cuda:0")
    specs = [TensorSpec("y", "FP32", (-1, 256)), TensorSpec("wide", "FP32", (-1, 256, 32))]
    runner = Runner(
        lambda inputs: ((inputs[0] @ weight), (inputs[0] @ weight)[:, :, None].expand(-1, -1, 32).contiguous()),
        *(device, [TensorSpec("x", "FP32", (-1, 64))], specs, (64, 8)),
    )
    generator = np.random.default_rng(0)
    with device.stream():
        for rows in (64, 8):
            assert runner.warm_up([(rows, 64)], rows) == ""
        under_way: list[Any] = []
        for turn in range(200):
            rows = (64, 8, 33, 64)[turn % 4]
            array = generator.normal(size=(rows, 64)).astype(np.float32)
            laid = runner.lay([[memoryview(array.tobytes())]], [(rows, 64)])
            under_way.append((array, runner.launch(laid)))
            if len(under_way) == 2 or turn == 199:
                array, launched = under_way.pop(0)
                (y, wide), phases = runner.land(launched)
                want = (torch.from_numpy(array).cuda() @ weight).cpu().numpy()
                got = np.frombuffer(y.data, np.float32).reshape(y.shape)
                np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)
                assert (np.frombuffer(wide.data, np.float32).reshape(wide.shape) == got[:, :, None]).all()
                assert all(phase >= 0 for phase in phases)
