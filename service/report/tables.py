"""A manifest on the terminal: the ladder as a table, each reason on a line of its own, the hybrid map as a list.

Translates only: `facts.py` draws the conclusions. `precompile.py` and `show.py` print what is made here.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from compiler.manifest import Candidate, HybridMap, Manifest, Segment
from service.report.facts import batch_text, describe_accuracy, describe_gain, timed_batches, worst_error
from service.report.figures import bytes_text, error_text, milliseconds_text, percent_text, printable

PLAIN_WIDTH = 160  # where the output is a file or a pipe, lines must not be folded at 80
STYLES = {
    "chosen": "bold green",
    "inaccurate": "red",
    "failed": "red",
    "skipped": "yellow",
    "unsupported": "dim",
}
OPERATORS_SHOWN = 6  # of one segment; the page shows all


def make_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def complain(console: Console, sentence: str) -> bool:
    """Print what went wrong; False, to be returned."""
    console.print(printable(sentence), style="red", markup=False, soft_wrap=True)
    return False


def describe_manifest(title: str, manifest: Manifest) -> Iterator[RenderableType]:
    """What to print, one part after the other, below the title of a model."""
    yield headline(title, manifest)
    yield ladder_table(manifest)
    reasons = reason_table(manifest)
    if reasons.row_count:
        yield reasons
    hybrid = manifest.chosen.hybrid
    if hybrid is not None:
        yield from describe_hybrid(hybrid)
    sparse = [layer for layer in manifest.sparsity if layer.is_two_of_four]
    if sparse:
        yield Text(f"{len(sparse)} of {len(manifest.sparsity)} layers are 2:4 sparse")


def headline(title: str, manifest: Manifest) -> Text:
    """`digits 1  inductor fp32  2.1x to 3.4x as fast as eager`."""
    text = Text(f"\n{printable(title)}  ", style="bold")
    text.append(manifest.chosen.rung.name, style=STYLES["chosen"])
    for part in (describe_gain(manifest), describe_accuracy(manifest)):
        if part:
            text.append(f"  {part}", style="not bold")
    return text


def ladder_table(manifest: Manifest) -> Table:
    """Every rung: what became of it, how far from the reference, how fast at each batch size, what it takes."""
    batches = timed_batches(manifest)
    has_accuracy = manifest.reference_accuracy is not None
    has_memory = any(rung.memory for rung in manifest.ladder)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("backend", "precision", "outcome"):
        table.add_column(column, no_wrap=True)
    columns = ["error", *(["top-1"] if has_accuracy else [])]
    columns += [("ms, " if index == 0 else "") + batch_text(batch) for index, batch in enumerate(batches)]
    columns += [*(["memory"] if has_memory else []), "size", "build s"]
    for column in columns:
        table.add_column(column, justify="right")
    for rung in manifest.ladder:
        accuracy = [] if not has_accuracy else [percent_text(rung.accuracy) if rung.accuracy is not None else ""]
        times = [milliseconds_text(rung.milliseconds[batch]) if batch in rung.milliseconds else "" for batch in batches]
        memory = [] if not has_memory else [bytes_text(rung.memory) if rung.memory else ""]
        size = bytes_text(rung.size) if rung.size else ""
        cells = [*_names(rung), _error(rung), *accuracy, *times, *memory, size, f"{rung.build_seconds:.1f}"]
        table.add_row(*(Text(printable(cell)) for cell in cells), style=STYLES.get(rung.outcome))
    return table


def reason_table(manifest: Manifest) -> Table:
    """Why each rung is not served, and how one was made."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for rung in manifest.ladder:
        notes = [rung.reason, *([f"not known to this version: {', '.join(rung.ignored)}"] if rung.ignored else [])]
        said = "; ".join(note for note in notes if note)
        if said:
            table.add_row(Text(printable(rung.rung.name)), Text(printable(said)))
    return table


def describe_hybrid(hybrid: HybridMap) -> Iterator[RenderableType]:
    """The engines and the parts that stayed in PyTorch, in the order of execution, and why they did."""
    yield Text(
        f"\n{hybrid.engines} TensorRT engines hold {percent_text(hybrid.operator_coverage)} of the operators "
        f"and {percent_text(hybrid.parameter_coverage)} of the parameters"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("", "segment", "operators", "in", "out", "which"):
        table.add_column(column, justify="right" if column in ("operators", "in", "out") else "left")
    for segment in hybrid.segments:
        is_engine = segment.kind == "tensorrt"
        table.add_row(
            Text("engine" if is_engine else "torch", style="green" if is_engine else "yellow"),
            Text(printable(segment.name)),
            str(sum(segment.operators.values())),
            bytes_text(segment.bytes_in),
            bytes_text(segment.bytes_out),
            Text(printable(_operators(segment))),
        )
    yield table
    for remainder in hybrid.remainders:
        count = f" ({remainder.count} times)" if remainder.count > 1 else ""
        yield Text(printable(f"{remainder.operator}{count} stayed in PyTorch: {remainder.reason}"))


def _names(rung: Candidate) -> tuple[str, str, str]:
    return rung.backend, f"{rung.precision} {rung.variant}".strip(), rung.outcome


def _error(rung: Candidate) -> str:
    worst = worst_error(rung)
    return "" if worst is None else error_text(worst.relative_l2)


def _operators(segment: Segment) -> str:
    """The most frequent first: `conv2d 12, relu 12, add 3 and 2 more kinds`."""
    ordered = sorted(segment.operators.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {count}" for name, count in ordered[:OPERATORS_SHOWN])
    rest = len(ordered) - OPERATORS_SHOWN
    return f"{shown} and {rest} more kinds" if rest > 0 else shown
