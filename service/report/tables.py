"""A manifest on the terminal: the ladder as a table, each reason on a line of its own, the hybrid map as a list.

Translates only: `facts.py` draws the conclusions. `precompile.py` and `show.py` print what is made here.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from compiler.manifest import Candidate, HybridMap, Manifest, Segment
from service.report.facts import batch_text, describe_accuracy, describe_gain, timed_batches, worst_error
from service.report.figures import (
    bytes_text,
    error_text,
    milliseconds_text,
    percent_text,
    plural,
    printable,
    seconds_text,
)

PLAIN_WIDTH = 160  # where the output is a file or a pipe, lines must not be folded at 80
STYLES = {
    "chosen": "bold green",
    "inaccurate": "red",
    "failed": "red",
    "skipped": "yellow",
    "unsupported": "dim",
}
OPERATORS_SHOWN = 6  # of one segment; the page shows all
_WIDE = Console(width=10_000)  # measures what a table needs, were there room


def make_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def complain(console: Console, sentence: str) -> bool:
    """Print what went wrong; False, to be returned."""
    console.print(printable(sentence), style="red", markup=False, soft_wrap=True)
    return False


def print_manifest(console: Console, title: str, manifest: Manifest) -> None:
    """All that is to be said of an artifact, below the title of its model."""
    for part in describe_manifest(title, manifest, console.width):
        console.print(part)


def describe_manifest(title: str, manifest: Manifest, width: int) -> Iterator[RenderableType]:
    """What to print on a console of `width` columns, one part after the other."""
    yield headline(title, manifest)
    yield ladder_table(manifest, width)
    reasons = reason_table(manifest)
    if reasons.row_count:
        yield Text("")
        yield reasons
    if manifest.chosen.padded:
        yield Text("")
        yield padded_table(manifest.chosen)
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


def ladder_table(manifest: Manifest, width: int) -> Table:
    """Every rung: what became of it, how far from the reference, how fast at each batch size, what it takes.

    Where that is wider than `width`, fewer batch sizes are shown, then no sizes and memory.
    """
    batches = timed_batches(manifest)
    few = tuple(sorted({batches[0], batches[len(batches) // 2], batches[-1]})) if batches else ()
    for shown, has_sizes in ((batches, True), (few, True), (few[::2], True), (few[::2], False)):
        table = _ladder_table(manifest, shown, has_sizes)
        if Measurement.get(_WIDE, _WIDE.options, table).maximum <= width:
            break
    return table


def _ladder_table(manifest: Manifest, batches: tuple[int, ...], has_sizes: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("rung", "outcome"):
        table.add_column(column, no_wrap=True, vertical="bottom")
    rows = [_figures(rung, batches) for rung in manifest.ladder]
    names = [name for name in (rows[0] if rows else ()) if has_sizes or name not in ("memory", "size")]
    names = [name for name in names if any(row[name] for row in rows)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for rung, row in zip(manifest.ladder, rows, strict=True):
        cells = [rung.rung.name, rung.outcome, *(row[name] for name in names)]
        table.add_row(*(Text(printable(cell)) for cell in cells), style=STYLES.get(rung.outcome))
    return table


def _figures(rung: Candidate, batches: tuple[int, ...]) -> dict[str, str]:
    """The cells of a rung by the heading of their column; "" where it has no such figure."""
    worst = worst_error(rung)
    times = {_heading(batch, batch == batches[0]): _time(rung, batch) for batch in batches}
    return {
        "error": "" if worst is None else error_text(worst.relative_l2),
        "top-1": "" if rung.accuracy is None else percent_text(rung.accuracy),
        **times,
        "memory": bytes_text(rung.memory) if rung.memory else "",
        "size": bytes_text(rung.size) if rung.size else "",
        "build": seconds_text(rung.build_seconds) if rung.build_seconds else "",
    }


def _heading(batch: int, is_first: bool) -> str:
    return f"ms at\n{batch_text(batch)}" if is_first else f"\n{batch}"


def _time(rung: Candidate, batch: int) -> str:
    return milliseconds_text(rung.milliseconds[batch]) if batch in rung.milliseconds else ""


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


def padded_table(chosen: Candidate) -> Table:
    """What serves, at each of the sizes that are padded to; the ladder above has the means over them."""
    times = {(each.sizes, each.rows): each.milliseconds for each in chosen.padded}
    batches = sorted({rows for _, rows in times})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("padded to", no_wrap=True, vertical="bottom")
    for batch in batches:
        table.add_column(_heading(batch, batch == batches[0]), justify="right", no_wrap=True, vertical="bottom")
    for sizes in sorted({sizes for sizes, _ in times}):
        table.add_row(" x ".join(map(str, sizes)), *(milliseconds_text(times[sizes, batch]) for batch in batches))
    return table


def describe_hybrid(hybrid: HybridMap) -> Iterator[RenderableType]:
    """The engines and the parts that stayed in PyTorch, in the order of execution, and why they did."""
    engines = plural(hybrid.engines, "TensorRT engine")
    operators, parameters = percent_text(hybrid.operator_coverage), percent_text(hybrid.parameter_coverage)
    yield Text(f"\n{engines}, with {operators} of the operators and {parameters} of the parameters")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
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


def _operators(segment: Segment) -> str:
    """The most frequent first: `conv2d 12, relu 12, add 3 and 2 more kinds`."""
    ordered = sorted(segment.operators.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {count}" for name, count in ordered[:OPERATORS_SHOWN])
    rest = len(ordered) - OPERATORS_SHOWN
    return f"{shown} and {rest} more kinds" if rest > 0 else shown
