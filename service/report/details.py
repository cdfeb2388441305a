"""The parts of the page that one looks up: sparsity of the layers, seconds by stage, the machine, the parts of the key.

Knows nothing of the rest of the page. `page.py` puts the parts together.
"""

from __future__ import annotations

from compiler.manifest import Manifest
from service.report.figures import bytes_text, percent_text, seconds_text
from service.report.markup import Html, tag

LAYERS_OPEN = 12  # a longer table is folded


def describe_sparsity(manifest: Manifest) -> Html:
    """Which weights have two zeros in each group of four, and how many zeros there are."""
    layers = manifest.sparsity
    if not layers:
        return Html("")
    sparse = sum(layer.is_two_of_four for layer in layers)
    rows = [
        tag(
            "tr",
            tag("td", tag("code", layer.layer)),
            tag("td", "x".join(map(str, layer.shape)), cls="number"),
            tag("td", tag("span", "2:4", cls="badge chosen") if layer.is_two_of_four else "dense"),
            tag("td", percent_text(layer.zeros), cls="number"),
        )
        for layer in layers
    ]
    heads = tag(
        "tr",
        tag("th", "layer"),
        tag("th", "shape", cls="number"),
        tag("th", "structure"),
        tag("th", "zeros", cls="number"),
    )
    table = tag("div", tag("table", tag("thead", heads), tag("tbody", *rows)), cls="scroll")
    said = f"{sparse} of {len(layers)} layers are 2:4 sparse: two zeros in each group of four weights"
    body = table if len(layers) <= LAYERS_OPEN else tag("details", tag("summary", "Every layer"), table)
    return tag("section", tag("h2", "Sparsity"), tag("p", said, cls="quiet"), body)


def describe_stages(manifest: Manifest) -> Html:
    """Where the time of the compilation went."""
    stages = {stage: seconds for stage, seconds in manifest.stage_seconds.items() if seconds >= 0.05}
    total = sum(stages.values())
    if not total:
        return Html("")
    parts = [
        tag("i", cls=f"stage s{index % 6}", style=f"flex-grow:{seconds:.2f}", title=f"{stage}: {seconds_text(seconds)}")
        for index, (stage, seconds) in enumerate(stages.items())
    ]
    legend = [
        tag("span", tag("i", cls=f"dot s{index % 6}"), f"{stage} ", tag("b", seconds_text(seconds)))
        for index, (stage, seconds) in enumerate(stages.items())
    ]
    heading = tag("h2", "Where the time went ", tag("small", seconds_text(total)))
    return tag("section", heading, tag("div", *parts, cls="stages"), tag("p", *legend, cls="legend"))


def describe_machine(manifest: Manifest) -> Html:
    """For which machine and libraries the artifact is, and what lies in it."""
    target = manifest.target
    facts = {
        "processor": target.name,
        "device": target.kind,
        "capabilities": " ".join(target.capabilities),
        "torch": target.torch,
        "CUDA": target.cuda or "",
        "TensorRT": target.tensorrt,
        "quantisers": target.quantizers,
        "Python": target.python,
        "system": target.system,
        "compiled": manifest.created,
        "from": manifest.origin,
        "inputs": ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in manifest.inputs),
        "outputs": ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in manifest.outputs),
        "files": ", ".join(f"{entry.path} ({bytes_text(entry.size)})" for entry in manifest.files),
    }
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items() if value]
    return tag("section", tag("h2", "Machine and model"), tag("dl", *pairs))


def describe_key(manifest: Manifest) -> Html:
    """What the artifact depends on: a change of any of these compiles it anew."""
    rows = [
        tag("tr", tag("th", name), tag("td", tag("code", value))) for name, value in sorted(manifest.key_parts.items())
    ]
    summary = tag("summary", "The parts of its key ", tag("code", manifest.key[:16]))
    return tag("details", summary, tag("table", tag("tbody", *rows), cls="facts"))
