"""Panels of numbers -> Vega-Lite: points that can be pointed at and focused, lines, bands of one standard deviation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paper_figures.shared.panels import Look, Pair, Panel, Point, band
from repro.report.tables import MINUS, Table, number, table

MARKERS = {
    "o": "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z",
    "s": "M-.85,-.85H.85V.85H-.85Z",
    "D": "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "d": "M0,-1.2L.75,0L0,1.2L-.75,0Z",
    "^": "M0,-1.1L1.05,.8H-1.05Z",
    "v": "M0,1.1L1.05,-.8H-1.05Z",
    "<": "M-1.1,0L.8,-1.05V1.05Z",
    ">": "M1.1,0L-.8,-1.05V1.05Z",
    "X": "M-1,-.5L-.5,-1L0,-.5L.5,-1L1,-.5L.5,0L1,.5L.5,1L0,.5L-.5,1L-1,.5L-.5,0Z",
    "P": "M-.4,-1H.4V-.4H1V.4H.4V1H-.4V.4H-1V-.4H-.4Z",
    "p": "M0,-1.05L1,-.32L.62,.85H-.62L-1,-.32Z",
    "*": "M0,-1.2L.3,-.38L1.15,-.37L.48,.15L.7,.97L0,.48L-.7,.97L-.48,.15L-1.15,-.37L-.3,-.38Z",
}
"""matplotlib's markers as SVG paths on [-1, 1], for Vega and for the legends of the page."""
DASHES = {"-": [1, 0], "--": [6, 3], "-.": [6, 2, 1, 2], ":": [2, 2]}
DARK = "#15181c"
"""Background of the page in dark mode, against which `readable` colours are seen."""
CONTRAST = 3.0  # of graphics, WCAG 2.1, 1.4.11


def value(point: Point, unit: str) -> str:
    """'97.01 ± 0.98 %'; more digits for small numbers."""
    digits = 2 if abs(point.y) >= 1 or unit == "%" else 4
    spread = "" if point.std is None or not np.isfinite(point.std) else f" ± {point.std:.{digits}f}"
    return f"{point.y:.{digits}f}{spread} {unit}".replace("-", MINUS).rstrip()


def numbers(pair: Pair) -> Table:
    """The points of both panels as a table, for readers who do not see the chart."""
    rows = []
    for panel in pair.panels:
        for p in panel.everything:
            x = replace(number(p.x, ",.4g") if p in panel.points else number(None), text=p.at)
            y, std = number(p.y, ",.4f", panel.y.unit), number(p.std, ",.4f")
            rows.append((panel.whose, p.series, x, y, std, number(p.n, "d"), p.origin or _published(panel)))
    heads = ("whose", "series", pair.own.x.title, pair.own.y.title, "± 1 std", "n", "artifact")
    return table(f"{pair.title}: the numbers of the chart", heads, rows)


def _published(panel: Panel) -> str:
    return panel.whose if panel.whose == "the paper" else ""


def description(panel: Panel) -> str:
    """What a screen reader says about a panel."""
    return (
        f"{panel.title}, {panel.whose}: {panel.y.title} against {panel.x.title}, {len(panel.everything)} points of "
        f"{len(panel.legend)} series. The arrow keys go from point to point."
    )


def path(look: Look) -> str:
    """The marker of a series as an SVG path."""
    return MARKERS[look.marker or "o"]


def dashes(look: Look) -> str:
    """The line of a series as an SVG stroke-dasharray."""
    return " ".join(map(str, DASHES[look.line]))


def variable(look: Look) -> str:
    """The colour of a series as a property of the style sheet, which has another value in dark mode."""
    return f"var({css_name(look.color)})"


def spec(panel: Panel) -> dict:
    """The Vega-Lite specification of a panel, as wide as its place in the page."""
    series = list(panel.legend)
    looks = [panel.looks[name] for name in series]
    color = {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": series, "range": [variable(look) for look in looks]},
    }
    shape = color | {"scale": {"domain": series, "range": [path(look) for look in looks]}}
    dash = color | {"scale": {"domain": series, "range": [DASHES[look.line] for look in looks]}}
    y_scale = {"zero": False} | ({"domain": panel.y.domain} if panel.y.domain else {})
    x = {"field": "x", "type": "quantitative", "title": panel.x.title, "scale": _x_scale(panel), "axis": _x_axis(panel)}
    y = {"field": "y", "type": "quantitative", "title": panel.y.title, "scale": y_scale}
    said = {"tooltip": [{"field": name} for name in TOLD], "description": {"field": "text"}}
    layers = []
    if panel.joined:
        if any(p.std for p in panel.points):
            band = {"type": "area", "opacity": 0.1, "aria": False, "tooltip": None, "line": False}
            ends = {"y": y | {"field": "low"}, "y2": {"field": "high"}}
            known = [{"filter": "isValid(datum.low)"}]
            layers.append({"transform": known, "mark": band, "encoding": {"x": x, **ends, "color": color}})
        line = {"type": "line", "strokeWidth": 1.6, "aria": False, "tooltip": None}
        layers.append({"mark": line, "encoding": {"x": x, "y": y, "color": color, "strokeDash": dash}})
    if panel.rules:
        rule = {"mark": {"type": "rule", "strokeWidth": 1.8}, "data": {"values": _values(panel, panel.rules)}}
        layers.append(rule | {"encoding": {"y": y, "color": color, "strokeDash": dash, **said}})
    # the outline has the colour of the text, so that light markers are seen on white and dark ones on black
    mark = {"type": "point", "filled": True, "stroke": "currentColor", "strokeWidth": 0.7, "opacity": 1}
    size = {"condition": {"test": "datum.small", "value": 22}, "value": 58}
    faint = {"condition": {"test": "datum.small", "value": 0.45}, "value": 1}
    encoding = {"x": x, "y": y, "fill": color, "shape": shape, "size": size, "opacity": faint, **said}
    layers.append({"mark": mark, "encoding": encoding})
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description(panel),
        "width": "container",
        "height": 250,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": _values(panel, panel.points)},
        "transform": [{"calculate": SAID, "as": "text"}],
        "layer": layers,
        "config": CONFIG,
    }


TOLD = ("series", "at", "value", "n", "artifact")
"""Fields of a point that hover and focus show."""
SAID = "datum.series + '; ' + datum.at + '; ' + datum.value + '; n = ' + datum.n + '; ' + datum.artifact"
"""The same as a sentence for screen readers."""
_INK = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "domainColor": "currentColor",
    "tickColor": "currentColor",
    "gridColor": "currentColor",
    "gridOpacity": 0.13,
    "titleFontWeight": "normal",
    "labelFontSize": 12,
    "titleFontSize": 13,
    "tickCount": 6,
}
CONFIG = {"background": "transparent", "font": "system-ui, sans-serif", "view": {"stroke": None}, "axis": _INK}
"""Everything has the colour of the text, so that the style sheet alone decides between light, dark and print."""


def _values(panel: Panel, points: Sequence[Point]) -> list[dict]:
    found = []
    for p in points:
        shown = {
            "series": p.series,
            "at": p.at,
            "value": value(p, panel.y.unit),
            "n": "1" if p.n is None else str(p.n),
            "artifact": p.origin or panel.whose,
        }
        place = {"x": p.x, "y": p.y} | ({"small": True} if p.small else {})
        if p.std and np.isfinite(p.std):
            place |= dict(zip(("low", "high"), band(p, panel.y)))
        found.append(shown | {name: float(f"{x:.7g}") for name, x in place.items()})
    return found


def _x_scale(panel: Panel) -> dict:
    scale = {"nice": False, "padding": 10}
    return scale | ({"type": "log", "base": 2} if panel.x.kind == "log2" else {"zero": False})


def _x_axis(panel: Panel) -> dict:
    axis = {"labelOverlap": "greedy", "grid": False}
    axis |= {"values": list(panel.x.ticks), "format": "~g"} if panel.x.ticks else {}  # Vega would round 0.25 to 0.3
    return axis | ({"labelExpr": panel.x.label} if panel.x.label else {})


def css_name(color: str) -> str:
    return f"--c{color.removeprefix('#')}"


def readable(color: str, on: str = DARK) -> str:
    """The colour, mixed with white until it has CONTRAST against a dark background."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)
    for white in np.linspace(0, 1, 21):
        mixed = "#" + "".join(f"{round(c):02x}" for c in rgb + white * (255 - rgb))
        if contrast(mixed, on) >= CONTRAST:
            return mixed
    return "#ffffff"


def contrast(a: str, b: str) -> float:
    """Contrast of two colours as WCAG 2.1 defines it, from 1 to 21."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
