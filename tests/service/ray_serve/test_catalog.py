"""What the ingress knows of the deployments: what their replicas said last, and that they have yet to say anything."""

from __future__ import annotations

import asyncio
from typing import Any

from service.ray_serve import wire
from service.ray_serve.catalog import WAITING, Deployments
from service.repository.catalog import Catalog, Entry, State
from tests import fakes
from tests.service.ray_serve.loop import in_loop


class Handle:
    """A deployment whose replicas answer so to `entries`."""

    def __init__(self, said: tuple[Entry, ...] | Exception) -> None:
        self.said = said
        self.entries = self

    def remote(self) -> Any:
        if isinstance(self.said, SystemError):
            raise self.said  # Ray cannot even be asked just now

        async def answer() -> bytes:
            if isinstance(self.said, Exception):
                raise self.said
            return wire.pack_entries(self.said)

        return answer()


@in_loop
async def test_a_model_is_loading_until_a_replica_says_what_it_has() -> None:
    catalogs: list[Catalog] = []
    handle = Handle(RuntimeError("no replica yet"))
    deployments = Deployments({"double": handle}, catalogs.append)
    await deployments.ask("double")
    (entry,) = deployments.catalog().entries()
    assert (entry.state, entry.reason) == (State.LOADING, WAITING)
    assert not deployments.catalog().is_ready
    handle.said = (fakes.entry(),)
    await deployments.ask("double")
    assert catalogs[-1].entries() == (fakes.entry(),)
    assert catalogs[-1].is_ready


@in_loop
async def test_what_was_said_holds_while_nobody_answers() -> None:
    catalogs: list[Catalog] = []
    handle = Handle((fakes.entry(),))
    deployments = Deployments({"double": handle}, catalogs.append)
    await deployments.ask("double")
    await deployments.ask("double")
    assert len(catalogs) == 1, "nothing new is nothing to follow"
    handle.said = RuntimeError("all died")
    await deployments.ask("double")
    assert deployments.catalog().entries() == (fakes.entry(),)


@in_loop
async def test_who_cannot_even_be_asked_is_asked_again() -> None:
    handle = Handle(SystemError("no connection to the cluster"))
    deployments = Deployments({"double": handle}, lambda catalog: None)
    await deployments.ask("double")
    handle.said = (fakes.entry(),)
    await deployments.ask("double")
    assert deployments.catalog().entries() == (fakes.entry(),)


@in_loop
async def test_each_model_is_asked_for_itself() -> None:
    known = asyncio.Event()

    def follow(catalog: Catalog) -> None:
        if catalog.has("double", "1"):
            known.set()

    deployments = Deployments({"mute": Handle(RuntimeError()), "double": Handle((fakes.entry(),))}, follow)
    following = asyncio.create_task(deployments.follow())
    await known.wait()
    following.cancel()
    assert deployments.catalog().entry("mute").state is State.LOADING
