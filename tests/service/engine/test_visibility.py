"""Each engine sees one GPU; a restriction of the whole service is counted on from."""

import pytest

from service.engine.visibility import environment_of, name_inside


@pytest.mark.parametrize(
    ("device", "ours", "seen"),
    [
        ("cpu", None, None),
        ("cuda:0", None, "0"),
        ("cuda:3", None, "3"),
        ("cuda:1", "5, 7", "7"),
        ("cuda:0", "GPU-8932f937,GPU-4a1", "GPU-8932f937"),
        ("cuda:1", "MIG-1,MIG-2,", "MIG-2"),
    ],
)
def test_an_engine_sees_its_own_gpu_alone(device: str, ours: str | None, seen: str | None) -> None:
    environment = {} if ours is None else {"CUDA_VISIBLE_DEVICES": ours}
    assert environment_of(device, environment).get("CUDA_VISIBLE_DEVICES") == seen


def test_inside_an_engine_its_gpu_is_the_first() -> None:
    assert [name_inside(device) for device in ("cpu", "cuda:0", "cuda:3")] == ["cpu", "cuda:0", "cuda:0"]
