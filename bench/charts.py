#!/usr/bin/env python3
"""Draws the documentation's charts from the records, and from nothing else: the same records give the same bytes.

usage: charts.py [--records DIR] [--out DIR] [--check]      --check writes nothing, and fails where a chart is another

latency.svg     seconds against tokens of one pair, and how many times this engine's int8 seconds each system takes
cold-start.svg  from the start of a process to its first score: whole starts side by side, and the steps of ours enlarged
models.svg      how well models rank, as others have published it, against the time that a request takes on AVX2

The record with the newest run of a chart's lines is drawn, the newest line where it has several for the same point. A chart that
no record has lines for is left as it is, and named.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
from html import escape

import models

BENCH = pathlib.Path(__file__).resolve().parent
OURS = "reranker int8"

# Colours by role, each for a light and for a dark page. A project keeps its hue; a second line of it is dashed.
COLOURS = {
    "text": ("#1f2328", "#f0f6fc"),
    "muted": ("#59636e", "#9198a1"),
    "grid": ("#d1d9e0", "#3d444d"),
    "blue": ("#0969da", "#58a6ff"),
    "pink": ("#bf3989", "#f778ba"),
    "orange": ("#bc4c00", "#f0883e"),
    "green": ("#1a7f37", "#3fb950"),
    "purple": ("#8250df", "#bc8cff"),
    "yellow": ("#9a6700", "#d29922"),
    "grey": ("#818b98", "#6e7681"),
}
# system: (label, colour, dashed)
SYSTEMS = {
    OURS: ("this engine, int8", "blue", False),
    "reranker f32": ("this engine, f32", "blue", True),
    "pytorch f32": ("PyTorch f32", "pink", False),
    "pytorch f32 packed": ("PyTorch f32, packed", "pink", False),
    "pytorch int8": ("PyTorch int8", "pink", True),
    "onnxruntime int8": ("ONNX Runtime int8", "orange", False),
    "openvino int8 dynamic": ("OpenVINO int8, dynamic", "green", True),
    "openvino int8 static": ("OpenVINO int8, static", "green", False),
}
# step of a start: (label, colour)
STEPS = {
    "process": ("process", "grey"),
    "import": ("imports", "pink"),
    "tokenizer": ("tokenizer", "orange"),
    "weights": ("weights", "green"),
    "prefetch": ("prefetch", "purple"),
    "encode": ("texts to ids", "yellow"),
    "inference": ("first inference", "blue"),
}


class Svg:
    def __init__(self, width: int, title: str, description: str):
        self.width = width
        self.height = 0
        self.title, self.description = title, description
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start", colour: str = "text") -> None:
        classes = f"f-{colour}{' ' + kind if kind else ''}"
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}"{at}>{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "grid", width: float = 1) -> None:
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="s-{colour}" stroke-width="{width:g}"/>'
        )

    def path(self, points: list[tuple[float, float]], colour: str, width: float, dashed: bool) -> None:
        way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<path d="{way}" class="s-{colour}" fill="none" stroke-width="{width:g}"{dash}/>')

    def dot(self, x: float, y: float, colour: str, radius: float) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="f-{colour}"/>')

    def bar(self, x: float, y: float, width: float, height: float, colour: str, says: str) -> None:
        # nothing that was measured is too short to be seen
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" class="f-{colour}">'
            f"<title>{escape(says)}</title></rect>"
        )

    def render(self) -> str:
        def rules(page: int) -> str:
            return "".join(
                f".f-{name}{{fill:{shades[page]}}}.s-{name}{{stroke:{shades[page]}}}" for name, shades in COLOURS.items()
            )

        style = (
            "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
            ".title{font-size:15px;font-weight:600}.bold{font-weight:600}.small{font-size:11px}"
            f"{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}"
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-labelledby="t d">'
        )
        names = f'<title id="t">{escape(self.title)}</title><desc id="d">{escape(self.description)}</desc>'
        return "\n".join([head, names, f"<style>{style}</style>", *self.parts, "</svg>", ""])


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, as near as can be to where they are wanted, in their order, at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    places = [0.0] * len(wanted)
    floor = low
    for at in order:
        places[at] = max(wanted[at], floor)
        floor = places[at] + gap
    ceiling = high
    for at in reversed(order):
        places[at] = min(places[at], ceiling)
        ceiling = places[at] - gap
    return places


def seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms"


def latency(lines: list[dict], run: dict) -> str | None:
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        if line["kind"] == "time" and line["system"] in SYSTEMS:
            curves.setdefault(line["system"], {})[line["tokens"]] = line["median"]
    if not curves:
        return None
    curves = {name: curves[name] for name in SYSTEMS if name in curves}
    tokens = sorted({n for curve in curves.values() for n in curve})
    values = [value for curve in curves.values() for value in curve.values()]
    svg = Svg(
        860,
        "Latency of one pair against its tokens",
        "; ".join(
            f"{SYSTEMS[name][0]}: " + ", ".join(f"{n} tokens {seconds(curve[n])}" for n in sorted(curve))
            for name, curve in curves.items()
        ),
    )
    left, right, top = 62, 640, 84
    svg.text(16, 26, svg.title, "title")
    svg.text(16, 45, f"full-size bge-reranker-v2-m3 shape, {machine(run)}", "small", colour="muted")

    def x(n: float) -> float:
        return left + (right - left) * math.log(n / tokens[0]) / math.log(tokens[-1] / tokens[0])

    def labels(ends: dict[str, tuple[float, float, str]], low: float, high: float) -> None:
        places = spread([y for _, y, _ in ends.values()], 15, low, high)
        for (name, (end, y, says)), place in zip(ends.items(), places, strict=True):
            label, colour, _ = SYSTEMS[name]
            svg.line(end + 4, y, right + 18, place, colour, 0.75)
            svg.text(right + 22, place + 4, f"{label}  {says}", "bold" if name == OURS else "", colour=colour)

    def frame(low: float, high: float, name: str) -> None:
        for n in tokens:
            svg.line(x(n), low, x(n), high)
            svg.text(x(n), low + 17, f"{n}", "small", "middle", "muted")
        svg.text((left + right) / 2, low + 34, "tokens of the pair (log scale)", "small", "middle", "muted")
        svg.text(16, high - 8, name, "small", colour="muted")

    # seconds, both scales logarithmic
    height = 300
    low, high = min(values) / 1.15, max(values) * 1.15

    def y(value: float) -> float:
        return top + height * (1 - math.log(value / low) / math.log(high / low))

    frame(top + height, top, "seconds (log scale)")
    for power in range(-4, 3):
        for digit in (1, 2, 5):
            tick = digit * 10.0**power
            if low <= tick <= high:
                svg.line(left, y(tick), right, y(tick))
                svg.text(left - 8, y(tick) + 4, seconds(tick), "small", "end", "muted")
    draw(svg, curves, x, y)
    ends = {
        name: (x(max(curve)), y(curve[max(curve)]), seconds(curve[max(curve)])) for name, curve in curves.items()
    }
    labels(ends, top + 4, top + height)

    # the same, as multiples of ours
    bottom = top + height
    if OURS in curves and len(curves) > 1:
        start, height2 = bottom + 76, 230
        times = {
            name: {n: value / curves[OURS][n] for n, value in curve.items() if n in curves[OURS]}
            for name, curve in curves.items()
        }
        most = max(value for curve in times.values() for value in curve.values())
        step = next(s for s in (0.25, 0.5, 1, 2, 5, 10) if most / s <= 9)
        most = math.ceil(most / step) * step

        def ratio(value: float) -> float:
            return start + height2 * (1 - value / most)

        frame(start + height2, start, "times the seconds of this engine at int8")
        for at in range(int(most / step) + 1):
            svg.line(left, ratio(at * step), right, ratio(at * step))
            svg.text(left - 8, ratio(at * step) + 4, f"{at * step:g}×", "small", "end", "muted")
        draw(svg, times, x, ratio)
        ends = {
            name: (x(max(curve)), ratio(curve[max(curve)]), f"{curve[max(curve)]:.2f}×") for name, curve in times.items()
        }
        labels(ends, start + 4, start + height2)
        bottom = start + height2
    svg.height = round(bottom + 48)
    return svg.render()


def draw(svg: Svg, curves: dict[str, dict[int, float]], x, y) -> None:
    for name in reversed(curves):  # ours last, on top
        _, colour, dashed = SYSTEMS[name]
        points = [(x(n), y(curves[name][n])) for n in sorted(curves[name])]
        svg.path(points, colour, 3 if name == OURS else 1.75, dashed)
        for at in points:
            svg.dot(*at, colour, 3.5 if name == OURS else 2.25)


def machine(run: dict) -> str:
    return f"{run['threads']} threads of {run['cpu']}, {run['run'][:10]}"


def start_label(line: dict) -> str:
    engine, first = line["engine"], line["engine"].split()[0].lower()
    what = {"reranker": "this engine", "pytorch": "Python service"}.get(first, first)
    precision = next((word for word in engine.split() if word in ("int8", "f32", "bf16", "f16")), "")
    return f"{what}, {precision}" if precision else what


def cold_start(lines: list[dict], run: dict) -> str | None:
    starts = list({
        (line["engine"], line["model"], line["cache"], line["tokens"]): line for line in lines if line["kind"] == "cold"
    }.values())  # fmt: skip
    if not starts:
        return None
    longest_pair = max(line["tokens"] for line in starts)
    starts = [line for line in starts if line["tokens"] == longest_pair]
    starts.sort(key=lambda line: (line["cache"] != "warm", line["seconds_median"]))
    svg = Svg(
        860,
        "Cold start: from the start of the process to its first score",
        "; ".join(f"{start_label(s)}, page cache {s['cache']}: {seconds(s['seconds_median'])}" for s in starts),
    )
    left, right = 190, 760
    svg.text(16, 26, svg.title, "title")
    svg.text(
        16,
        45,
        f"a pair of {longest_pair} tokens, full-size bge-reranker-v2-m3 shape, {machine(run)}",
        "small",
        colour="muted",
    )
    shown = [name for name in STEPS if any(step["name"] == name for s in starts for step in s["spans"])]
    at = 16.0
    for name in shown:
        label, colour = STEPS[name]
        svg.bar(at, 58, 11, 11, colour, label)
        svg.text(at + 16, 68, label, "small")
        at += 34 + 6.2 * len(label)

    def axis(top: float, bottom: float, longest: float, per_s: float, unit: str):
        step = next(s * 10.0**p for p in range(-1, 6) for s in (1, 2, 5) if longest / (s * 10.0**p) <= 8)

        def x(value: float) -> float:
            return left + (right - left) * value / longest

        tick = 0
        while tick * step <= longest:
            svg.line(x(tick * step), top, x(tick * step), bottom)
            svg.text(x(tick * step), bottom + 16, f"{tick * step / per_s:g}", "small", "middle", "muted")
            tick += 1
        svg.text((left + right) / 2, bottom + 33, unit, "small", "middle", "muted")
        return x

    # whole starts, one scale
    top, row = 100.0, 24
    caches = [cache for cache in ("warm", "dropped") if any(s["cache"] == cache for s in starts)]
    bottom = top + row * len(starts) + 20 * (len(caches) - 1)
    longest = max(s["seconds_median"] for s in starts) * 1e3
    x = axis(top - 4, bottom, longest * 1.02, 1e3, "seconds since the process was started")
    y = top
    for cache in caches:
        svg.text(16, y - 6, f"page cache {'warm' if cache == 'warm' else 'dropped: read from the disk'}", "small", colour="muted")
        for s in (s for s in starts if s["cache"] == cache):
            svg.text(left - 8, y + 13, start_label(s), "bold" if "int8" in s["engine"] else "", "end")
            for step in s["spans"]:
                if step["name"] in STEPS and step["name"] != "prefetch":
                    label, colour = STEPS[step["name"]]
                    svg.bar(x(step["start_ms"]), y + 1, x(step["ms"]) - left, row - 8, colour, f"{label}: {step['ms']:.1f} ms")
            svg.text(x(s["seconds_median"] * 1e3) + 6, y + 13, seconds(s["seconds_median"]), "bold")
            y += row
        y += 20

    # our own steps, enlarged
    mine = [s for s in starts if s["engine"].startswith("reranker")]
    if mine:
        s = mine[0]
        steps = sorted((step for step in s["spans"] if step["name"] in STEPS), key=lambda step: step["start_ms"])
        top = bottom + 76
        end = top + row * len(steps)
        svg.text(16, top - 10, f"{start_label(s)}, page cache {s['cache']}: its steps", "bold")
        x = axis(top - 4, end, max(step["start_ms"] + step["ms"] for step in steps) * 1.02, 1, "milliseconds since the process was started")
        for step in steps:
            label, colour = STEPS[step["name"]]
            svg.text(left - 8, top + 13, label, "", "end")
            svg.bar(x(step["start_ms"]), top + 1, x(step["ms"]) - left, row - 8, colour, f"{label}: {step['ms']:.1f} ms")
            # beside the bar where there is room, else before it
            over = x(step["start_ms"] + step["ms"])
            said = f"{step['ms']:.1f} ms"
            if over + 60 < svg.width - 30:
                svg.text(over + 6, top + 13, said, "small")
            else:
                svg.text(x(step["start_ms"]) - 6, top + 13, said, "small", "end")
            top += row
        bottom = end
    svg.height = round(bottom + 46)
    return svg.render()


def frontier(lines: list[dict], run: dict) -> str | None:
    measured = models.measured(lines)
    points: dict[tuple[float, float], list[str]] = {}
    for model in models.known()["models"]:
        ranking = model.get("quality", {}).get("mteb_en")
        took = models.time(measured.get(model["id"], {}), models.AVX2.name)
        if ranking and took:
            points.setdefault((took, ranking), []).append(model["id"].split("/")[1])
    if not points:
        return None
    # A model is on the frontier if none is both faster and better.
    best = {at for at in points if not any(took <= at[0] and ranking >= at[1] and (took, ranking) != at for took, ranking in points)}
    svg = Svg(
        860,
        "Ranking quality against time, by model",
        "; ".join(f"{', '.join(names)}: nDCG@10 {ranking:.4f}, {seconds(took)}" for (took, ranking), names in sorted(points.items())),
    )
    left, right, top, height = 62, 800, 84, 340
    svg.text(16, 26, svg.title, "title")
    svg.text(16, 45, f"100 passages of 128 tokens, int8, held to AVX2, {machine(run)}", "small", colour="muted")
    svg.text(16, top - 8, "nDCG@10, English retrieval, as published (docs/reference/models.md)", "small", colour="muted")
    low, high = math.log(min(took for took, _ in points) / 1.5), math.log(max(took for took, _ in points) * 1.5)
    worst, most = (round(pick(ranking for _, ranking in points) + by, 2) for pick, by in ((min, -0.01), (max, 0.01)))

    def x(took: float) -> float:
        return left + (right - left) * (math.log(took) - low) / (high - low)

    def y(ranking: float) -> float:
        return top + height * (1 - (ranking - worst) / (most - worst))

    for power in range(-3, 3):
        for digit in (1, 2, 5):
            tick = digit * 10.0**power
            if low <= math.log(tick) <= high:
                svg.line(x(tick), top, x(tick), top + height)
                svg.text(x(tick), top + height + 17, seconds(tick), "small", "middle", "muted")
    svg.text((left + right) / 2, top + height + 34, "for 100 passages (log scale)", "small", "middle", "muted")
    for hundredth in range(round(worst * 100), round(most * 100) + 1, 2):
        svg.line(left, y(hundredth / 100), right, y(hundredth / 100))
        svg.text(left - 8, y(hundredth / 100) + 4, f"{hundredth / 100:.2f}", "small", "end", "muted")
    svg.path([(x(took), y(ranking)) for took, ranking in sorted(best)], "blue", 1.75, True)
    for (took, ranking), names in points.items():
        on = (took, ranking) in best
        svg.dot(x(took), y(ranking), "blue" if on else "grey", 4.5)
        # away from the line, which rises
        after = x(took) < left + 0.62 * (right - left)
        across, up = (8 if after else -8), (-9 if on and not after else 15)
        words = f"{', '.join(names)}  {seconds(took)}"
        svg.text(x(took) + across, y(ranking) + up, words, "bold" if on else "", "start" if after else "end", "blue" if on else "muted")
    svg.height = round(top + height + 48)
    return svg.render()


CHARTS = {"latency.svg": ("curve", latency), "cold-start.svg": ("cold", cold_start), "models.svg": (models.GROUP, frontier)}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--records", type=pathlib.Path, default=BENCH / "records")
    args.add_argument("--out", type=pathlib.Path, default=BENCH / "charts")
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    records = [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for path in sorted(args.records.glob("*.jsonl"))
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    for file, (group, chart) in CHARTS.items():
        # the newest run, and where it stands
        found = max(
            ((line["run"], at) for at, record in enumerate(records) for line in record if line.get("group") == group),
            default=None,
        )
        drawn = None
        if found:
            run, at = found
            here = [line for line in records[at] if line.get("group") == group]
            drawn = chart(here, next(line for line in records[at] if line.get("run") == run and line["kind"] == "run"))
        if drawn is None:
            print(f"{file}: no record has lines for it", file=sys.stderr)
            continue
        if not args.check:
            (args.out / file).write_text(drawn, encoding="utf-8")
            print(args.out / file)
        elif not (args.out / file).is_file() or (args.out / file).read_text(encoding="utf-8") != drawn:
            sys.exit(f"{file} is not what bench/charts.py draws of the records: `make charts`")


if __name__ == "__main__":
    main()
