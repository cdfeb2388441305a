"""How many frontends there are, and what each starts with."""

from service.frontends import LEAN, count_frontends, environment_of_frontend
from service.ports import HTTP_SOCKET_VARIABLE


def test_there_is_one_at_least_and_never_fewer_with_more_cores() -> None:
    counts = [count_frontends(cores) for cores in range(1, 129)]
    assert [counts[cores - 1] for cores in (1, 2, 3, 4, 6, 8, 16, 32)] == [1, 1, 1, 2, 3, 4, 4, 8]
    assert counts == sorted(counts)
    assert all(count <= cores for cores, count in enumerate(counts, start=1))


def test_what_the_operator_has_set_stands() -> None:
    made = environment_of_frontend(7, {"MALLOC_ARENA_MAX": "4", "HOME": "/root"})
    assert made == {**LEAN, "MALLOC_ARENA_MAX": "4", "HOME": "/root", HTTP_SOCKET_VARIABLE: "7"}
