"""Draws the throughput of EfficientNet-B0 as bars: benchmarks/results/gpu_efficientnet.json -> .svg beside it.

python -m benchmarks.gpu.picture         needs nothing but Python
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
WAYS = {
    "eager fp32": "#9aa5b1",
    "eager fp16": "#6b7a8c",
    "torchscript fp16": "#5b8def",
    "torch.compile fp16": "#8e6cd8",
    "hybrid fp16": "#e8a33d",
    "hybrid fp16, graph": "#2f9e62",
}
WIDTH, TOP, BAR, GAP, LEFT, FIELD = 860, 76, 17, 26, 190, 520


def draw(result: dict[str, Any]) -> str:
    """One group of bars for each batch size, each scaled to its own fastest: images per second stand beside them."""
    height = TOP + len(result["rows"]) * (len(WAYS) * BAR + GAP) + 14
    gpu = result["machine"]["gpu"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="16" y="28" font-size="17" font-weight="bold" fill="#1f2933">'
        "EfficientNet-B0, images per second</text>",
        f'<text x="16" y="48" fill="#52606d">{escape(gpu)}, {escape(str(result["machine"]["tensorrt"]))}; '
        "random weights, 224 x 224; longer is faster</text>",
    ]
    y = TOP
    for row in result["rows"]:
        rates = {name: 1e3 * row["batch"] / row["milliseconds"][name] for name in WAYS if row["milliseconds"].get(name)}
        most = max(rates.values())
        parts.append(f'<text x="16" y="{y + 13}" font-weight="bold" fill="#1f2933">batch {row["batch"]}</text>')
        for name, rate in rates.items():
            long = FIELD * rate / most
            parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end" fill="#323f4b">{escape(name)}</text>')
            parts.append(
                f'<rect x="{LEFT}" y="{y + 2}" width="{long:.1f}" height="{BAR - 4}" rx="2" fill="{WAYS[name]}"/>'
            )
            parts.append(f'<text x="{LEFT + long + 6:.1f}" y="{y + 13}" fill="#323f4b">{rate:,.0f}</text>')
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    result = json.loads((RESULTS / "gpu_efficientnet.json").read_text())
    (RESULTS / "gpu_efficientnet.svg").write_text(draw(result))


if __name__ == "__main__":
    main()
