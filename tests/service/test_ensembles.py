"""What clients see of an ensemble, and whether it can serve, as its models allow."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from compiler.spec import TensorSpec
from service.ensembles import Ensembles, Verdict, called_only_by
from service.repository.catalog import Catalog, Entry, State
from service.repository.model_config import ImageInput, ModelConfig
from service.repository.scheduling import Ensemble, EnsembleStep, Generation, Sequencing, Steps
from tests.fakes import entry

RESIZE = EnsembleStep("resize", {"image": "picture"}, {"small": "small"})
CLASSIFY = EnsembleStep("classify", {"x": "small"}, {"p": "answer"})
MODELS = (
    entry(
        name="resize",
        inputs=(TensorSpec("image", "UINT8", (-1, 8, 8, 3), (0, 255)),),
        outputs=(TensorSpec("small", "FP32", (-1, -1)), TensorSpec("unused", "FP32", (-1, 1))),
        images=(ImageInput("image", "stretch"),),
        max_batch_size=16,
        artifact=3,
    ),
    entry(
        name="classify",
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=(TensorSpec("p", "FP32", (-1, 2)),),
        labels={"p": ("no", "yes")},
        artifact=5,
    ),
)


def config(*steps: EnsembleStep, name: str = "pets", **changes: Any) -> ModelConfig:
    return ModelConfig(name, ensemble=Ensemble(steps or (RESIZE, CLASSIFY)), **changes)


def judge(described: ModelConfig, *models: Entry) -> Verdict:
    ensembles = Ensembles()
    ensembles.put(described, "1")
    (verdict,) = ensembles.judge_all(Catalog(models or MODELS))
    return verdict


def changed(which: int, **changes: Any) -> tuple[Entry, ...]:
    """The models, one of them as it may be as well."""
    models = list(MODELS)
    models[which] = structs.replace(models[which], **changes)
    return tuple(models)


def test_inputs_and_outputs_are_those_that_no_step_makes_and_no_step_takes() -> None:
    verdict = judge(config())
    assert (verdict.state, verdict.reason) == (State.READY, "")
    made = verdict.entry
    assert made is not None
    assert made.inputs == (TensorSpec("picture", "UINT8", (-1, 8, 8, 3), (0, 255)),)
    assert made.outputs == (TensorSpec("answer", "FP32", (-1, 2)),)
    assert made.max_batch_size == 8, "as many rows as every model takes"
    assert (made.backend, made.buckets, made.ensemble) == ("ensemble", (), config().ensemble)


def test_labels_and_pictures_are_those_of_the_models() -> None:
    made = judge(config()).entry
    assert made is not None
    assert made.labels == {"answer": ("no", "yes")}
    assert made.images == (ImageInput("picture", "stretch"),)


def test_a_model_without_batch_makes_an_ensemble_without() -> None:
    assert [judge(config(), *changed(1, max_batch_size=size)).entry.max_batch_size for size in (0, 4)] == [0, 4]  # type: ignore[union-attr]
    fewer = judge(config(max_batch_size=3)).entry
    assert fewer is not None
    assert fewer.max_batch_size == 3


def test_what_is_declared_is_compared_and_may_say_more() -> None:
    declared = config(
        inputs=(TensorSpec("picture", "UINT8", (-1, 8, 8, -1)),), outputs=(TensorSpec("small", "FP32", (-1, 4)),)
    )
    made = judge(declared).entry
    assert made is not None
    assert made.inputs[0].shape == (-1, 8, 8, 3)
    assert made.outputs == (TensorSpec("small", "FP32", (-1, 4)),), "a tensor between two steps may be an output too"


@pytest.mark.parametrize(
    ("described", "models", "reason"),
    [
        (config(), MODELS[:1], "it calls model 'classify', which is not served here: add it to what is"),
        (
            config(RESIZE, structs.replace(CLASSIFY, version="7")),
            MODELS,
            "it calls version 7 of model 'classify', whose versions here are 1",
        ),
        (
            config(structs.replace(RESIZE, inputs={"img": "picture"})),
            MODELS,
            "model 'resize' has no input 'img': its inputs are image",
        ),
        (
            config(structs.replace(RESIZE, outputs={"big": "small"})),
            MODELS,
            "model 'resize' has no output 'big': its outputs are small, unused",
        ),
        (
            config(),
            changed(1, inputs=(*MODELS[1].inputs, TensorSpec("mask", "BOOL", (-1, 4)))),
            "nothing is given to the input 'mask' of model 'classify': add it to the step's inputs",
        ),
        (
            config(),
            changed(1, inputs=(TensorSpec("x", "INT32", (-1, 4)),)),
            "'small' is FP32 [-1,-1] as it is made, but 'classify' takes INT32 [-1,4]",
        ),
        (
            config(RESIZE, structs.replace(CLASSIFY, inputs={"x": "picture"})),
            MODELS,
            "'picture' is UINT8 [-1,8,8,3] so far, but 'classify' takes FP32 [-1,4]",
        ),
        (
            config(inputs=(TensorSpec("picture", "UINT8", (-1, 9, 8, 3)),)),
            MODELS,
            "'picture' is UINT8 [-1,9,8,3] as declared, but 'resize' takes UINT8 [-1,8,8,3]",
        ),
        (
            config(outputs=(TensorSpec("answer", "FP32", (-1, 9)),)),
            MODELS,
            "'answer' is FP32 [-1,9] as declared, but made as FP32 [-1,2]",
        ),
        (
            config(inputs=(TensorSpec("picture", "UINT8", (4, 8, 8, 3)),)),
            MODELS,
            "'picture' has shape [4,8,8,3], but the ensemble batches: its first dimension is -1",
        ),
        (
            config(max_batch_size=9),
            MODELS,
            "max_batch_size is 9, but that of its model 'classify' is 8: lower it",
        ),
        (
            config(),
            changed(1, steps=Steps(generate=Generation((), ()))),
            "it calls model 'classify', which answers in several responses: a step has one",
        ),
        (
            config(),
            changed(0, state=State.UNAVAILABLE, reason="no backend is left"),
            "its model 'resize' version 1 is unavailable: no backend is left",
        ),
    ],
)
def test_what_does_not_fit_is_unavailable_and_says_why(
    described: ModelConfig, models: tuple[Entry, ...], reason: str
) -> None:
    verdict = judge(described, *models)
    assert (verdict.entry, verdict.state, verdict.reason) == (None, State.UNAVAILABLE, reason)


def test_while_a_model_loads_so_does_the_ensemble() -> None:
    verdict = judge(config(), *changed(1, state=State.LOADING, reason="compiling: inductor"))
    expected = (State.LOADING, "its model 'classify' version 1 is loading: compiling: inductor")
    assert (verdict.state, verdict.reason) == expected
    held = verdict.hold(entry(name="pets"))
    assert (held.state, held.reason) == expected
    assert verdict.hold(entry(state=State.UNLOADING)).state is State.UNLOADING


def test_other_artifacts_of_its_models_are_other_answers() -> None:
    served = entry(name="pets", artifact=1)
    one, same, other = (judge(config(), *changed(1, artifact=number)).hold(served).artifact for number in (5, 5, 6))
    assert one == same != other


def test_an_input_that_a_model_does_without_may_be_left_out() -> None:
    mask = TensorSpec("mask", "FP32", (-1, 1))
    models = changed(1, inputs=(*MODELS[1].inputs, mask), defaults={"mask": 0.5})
    made = judge(config(), *models).entry
    assert made is not None
    assert ([spec.name for spec in made.inputs], made.defaults) == (["picture"], {}), "no step gives it"
    made = judge(config(RESIZE, structs.replace(CLASSIFY, inputs={"x": "small", "mask": "mask"})), *models).entry
    assert made is not None
    assert ([spec.name for spec in made.inputs], made.defaults) == (["picture", "mask"], {"mask": 0.5})


def test_state_is_kept_by_the_model_that_has_it() -> None:
    made = judge(config(), *changed(1, sequencing=Sequencing())).entry
    assert made is not None
    assert made.sequencing == Sequencing()


def test_ensembles_of_ensembles_are_judged_inside_out_and_never_in_circles() -> None:
    ensembles, catalog = Ensembles(), Catalog(MODELS)
    ensembles.put(config(EnsembleStep("pets", {"picture": "in"}, {"answer": "out"}), name="album"), "1")
    ensembles.put(config(), "1")
    found = []
    for verdict in ensembles.judge_all(catalog):
        found.append((verdict.key[0], verdict.state))
        if verdict.entry is not None:
            catalog.put(verdict.hold(structs.replace(verdict.entry, state=State.READY)))
    assert found == [("pets", State.READY), ("album", State.READY)]
    ensembles.put(config(EnsembleStep("album", {"in": "picture"}, {"out": "answer"})), "1")
    assert [verdict.reason for verdict in ensembles.judge_all(catalog)] == [
        "it calls itself, or ensembles are nested more than 8 deep"
    ] * 2


def test_many_ensembles_in_circles_are_soon_known_for_what_they_are() -> None:
    ensembles = Ensembles()
    names = [f"m{number}" for number in range(40)]
    for name in names:
        ensembles.put(config(*(EnsembleStep(other, {"x": "x"}, {"y": other}) for other in names), name=name), "1")
    assert {verdict.state for verdict in ensembles.judge_all(Catalog())} == {State.UNAVAILABLE}


def test_what_only_an_ensemble_needs_can_go_with_it() -> None:
    def made_of(name: str, *models: str) -> Entry:
        return entry(name=name, ensemble=Ensemble(tuple(EnsembleStep(model, {}, {}) for model in models)))

    outer, inner = made_of("outer", "inner", "shared", "asked"), made_of("inner", "deep")
    models = [entry(name=name) for name in ("deep", "shared", "asked", "alone")]
    catalog = Catalog((outer, inner, made_of("other", "shared"), *models))
    assert called_only_by("outer", catalog, keep={"outer", "asked"}) == ["inner", "deep"]
    assert called_only_by("inner", catalog, keep=()) == ["deep"]
    assert called_only_by("alone", catalog, keep=()) == []
