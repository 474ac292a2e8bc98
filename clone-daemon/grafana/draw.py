#!/usr/bin/env python3
"""Draws dashboard.json without Grafana: from what a Prometheus answers to its queries.

    draw.py http://127.0.0.1:9090 SECONDS OUTPUT.png

Needs matplotlib. Each panel is where the dashboard has it; panels that show one number show it.
"""

import json
import math
import pathlib
import sys
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt
from datetime import datetime, timezone

STEP = 1  # seconds between two points
COLUMNS = 24


def ask(base, query, start, end):
    """The series that a query gives, with their labels."""
    values = {"query": query, "start": start, "end": end, "step": STEP}
    url = f"{base}/api/v1/query_range?{urllib.parse.urlencode(values)}"
    with urllib.request.urlopen(url) as answer:
        result = json.load(answer)["data"]["result"]
    return [
        (series["metric"], [(at, float(value)) for at, value in series["values"]])
        for series in result
    ]


def label(template, metric):
    for name, value in metric.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def with_unit(value, unit):
    if math.isnan(value):
        return ""
    if unit in ("Bps", "bytes"):
        for prefix in ("", "K", "M", "G", "T"):
            if abs(value) < 1024 or prefix == "T":
                break
            value /= 1024
        return f"{value:.3g} {prefix}{'iB' if prefix else 'B'}" + ("/s" if unit == "Bps" else "")
    if unit == "percent":
        return f"{value:.4g} %"
    if unit == "s":
        if value >= 1:
            return f"{value:.3g} s"
        return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
    return f"{value:.4g}" + ("/s" if unit == "reqps" else "")


def draw_number(axes, panel, series, unit):
    axes.axis("off")
    mappings = panel["fieldConfig"]["defaults"].get("mappings", [])
    texts = {number: to["text"] for each in mappings for number, to in each["options"].items()}
    legend, (metric, points) = series[0]
    value = points[-1][1]
    text = texts.get(f"{value:g}", with_unit(value, unit))
    if panel["options"].get("textMode") == "name":
        text = label(legend, metric)
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=20, color="#00695f")


def draw_lines(axes, panel, series, unit):
    for legend, (metric, points) in series:
        times = [datetime.fromtimestamp(at, timezone.utc) for at, _ in points]
        axes.plot(times, [value for _, value in points], label=label(legend, metric), lw=1)
    # Room for the legend.
    axes.set_ylim(0, panel["fieldConfig"]["defaults"].get("max", axes.get_ylim()[1] * 1.5))
    axes.yaxis.set_major_formatter(lambda value, _: with_unit(value, unit))
    axes.legend(fontsize=5.5, loc="upper left", framealpha=0.6)


def draw_heat(axes, series, unit):
    bounds = sorted((float(metric["le"]), points) for _, (metric, points) in series)
    times = sorted({at for _, points in bounds for at, _ in points})
    below = {at: 0.0 for at in times}
    rows = []
    for _, points in bounds:
        counts = dict(points)
        rows.append([max(counts.get(at, 0.0) - below[at], 0.0) for at in times])
        below = {at: counts.get(at, below[at]) for at in times}
    dates = matplotlib.dates.date2num([datetime.fromtimestamp(at, timezone.utc) for at in times])
    axes.pcolormesh(dates, range(len(rows)), rows, cmap="Oranges", shading="nearest")
    axes.xaxis_date()
    ticks = range(0, len(rows), 4)
    axes.set_yticks(ticks, [with_unit(bounds[at][0], unit) for at in ticks])


def main():
    base, seconds, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dashboard = json.loads(pathlib.Path(__file__).with_name("dashboard.json").read_text())
    end = time.time()
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    plt.rcParams.update({"font.size": 7, "axes.grid": True, "grid.alpha": 0.3})
    figure = plt.figure(figsize=(15, rows * 0.3), dpi=100)
    grid = figure.add_gridspec(rows, COLUMNS, left=0.04, right=0.99, top=0.97, bottom=0.02,
                               wspace=9, hspace=4)
    figure.suptitle(f"{dashboard['title']}: the queries of its dashboard, not Grafana's drawing")
    for panel in panels:
        place = panel["gridPos"]
        columns = slice(place["x"], place["x"] + place["w"])
        if panel["type"] == "row":
            axes = figure.add_subplot(grid[place["y"], :])
            axes.axis("off")
            axes.text(0, 0, panel["title"], fontsize=11, fontweight="bold")
            continue
        axes = figure.add_subplot(grid[place["y"]:place["y"] + place["h"] - 1, columns])
        axes.set_title(panel["title"], fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
        unit = panel["fieldConfig"]["defaults"]["unit"]
        series = []
        for target in panel["targets"]:
            query = target["expr"].replace("$clone", ".*").replace("$__rate_interval", "5s")
            answer = ask(base, query, end - seconds, end)
            if not answer:
                sys.exit(f"no answer to {query}")
            series += [(target["legendFormat"], one) for one in answer]
        if panel["type"] in ("stat", "gauge"):
            draw_number(axes, panel, series, unit)
        elif panel["type"] == "heatmap":
            draw_heat(axes, series, unit)
        else:
            draw_lines(axes, panel, series, unit)
        if panel["type"] in ("timeseries", "heatmap"):
            axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%M:%S"))
    figure.savefig(output)


if __name__ == "__main__":
    main()
