"""An ensemble in the words of Triton's configuration: as clients are told, and as they may send it back."""

import json

from google.protobuf.json_format import MessageToDict, ParseDict

from protos import inference_pb2 as messages
from service.control import Control
from service.plane import Plane
from service.repository.overrides import read_override
from service.repository.scheduling import Ensemble, EnsembleStep, Sequencing
from tests.fakes import FakeCounter, FakeEngines, catalog, entry

BOTH = entry(
    name="both",
    backend="ensemble",
    sequencing=Sequencing(),
    ensemble=Ensemble((EnsembleStep("one", {"x": "x"}, {"y": "t"}), EnsembleStep("two", {"x": "t"}, {"y": "y"}, "3"))),
)


def control() -> Control:
    plane = Plane(FakeEngines(), FakeCounter())
    plane.catalog = catalog(BOTH)
    return Control(plane)


def test_clients_are_told_the_steps_and_nothing_of_programs() -> None:
    config = control().model_config("both")
    assert config["ensemble_scheduling"]["step"] == [
        {"model_name": "one", "model_version": -1, "input_map": {"x": "x"}, "output_map": {"y": "t"}},
        {"model_name": "two", "model_version": 3, "input_map": {"x": "t"}, "output_map": {"y": "y"}},
    ]
    assert (config["platform"], config["backend"], config["max_batch_size"]) == ("ensemble", "", 8)
    assert not config.keys() & {"instance_group", "dynamic_batching", "sequence_batching"}
    assert control().model_metadata("both")["platform"] == "ensemble"


def test_it_is_a_configuration_for_grpc_and_may_be_sent_back() -> None:
    message = ParseDict(control().model_config("both"), messages.ModelConfig())
    assert message.WhichOneof("scheduling_choice") == "ensemble_scheduling"
    back = read_override("both", json.dumps(MessageToDict(message, preserving_proto_field_name=True)))
    assert back["ensemble"] == {
        "steps": [
            {"model": "one", "inputs": {"x": "x"}, "outputs": {"y": "t"}},
            {"model": "two", "inputs": {"x": "t"}, "outputs": {"y": "y"}, "version": 3},
        ]
    }
