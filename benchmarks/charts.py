"""Results as PNG charts: one file for each group of rows, bars with the spread as whiskers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import OURS, Results

# File name, title, and the rows that share a picture.
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "throughput",
        "Throughput on loopback (more is better)",
        ("throughput_1_up", "throughput_1_down", "throughput_8_up", "throughput_8_down"),
    ),
    ("round_trip", "Round trip of 64 bytes (less is better)", ("round_trip_p50", "round_trip_p99")),
    (
        "requests",
        "Connections and HTTP requests (more is better)",
        ("connections", "http_keep_alive", "http_close"),
    ),
    (
        "cpu",
        "CPU seconds for a gigabyte, one stream (less is better)",
        ("cpu_server_1_up", "cpu_node_1_up", "cpu_server_1_down", "cpu_node_1_down"),
    ),
    (
        "delay",
        "50 ms and 0.1 % loss between server and node",
        (
            "delay_throughput_1_up",
            "delay_throughput_1_down",
            "delay_connections",
            "delay_http_close",
        ),
    ),
    (
        "memory",
        "Memory of an idle stream (less is better)",
        ("idle_stream_server", "idle_stream_node"),
    ),
)
OUR_COLOUR, OTHER_COLOUR = "#c8553d", "#6b7f94"
PANEL_INCHES = (3.4, 3.0)
LEAST_WIDTH_INCHES = 6.8  # what a title needs


def draw(results: Results, directory: Path) -> list[Path]:
    """Write the charts of all groups that have figures; raises ImportError without matplotlib."""
    import matplotlib as mpl  # only here: the rest of the benchmark does without

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    written = []
    for name, title, rows in GROUPS:
        present = [row for row in rows if row in results.rows]
        if not present:
            continue
        size = (max(PANEL_INCHES[0] * len(present), LEAST_WIDTH_INCHES), PANEL_INCHES[1])
        figure, axes = plt.subplots(1, len(present), figsize=size, squeeze=False)
        for axis, row in zip(axes[0], present, strict=True):
            _bars(axis, results, row)
        figure.suptitle(title)
        figure.tight_layout()
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        written.append(path)
    return written


def _bars(axis: Any, results: Results, row: str) -> None:
    """One panel: a horizontal bar for each relay, in the order of the table."""
    known = {peer: s for peer in results.peers if (s := results.spread(row, peer)) is not None}
    names = list(known)
    medians = [known[name].median for name in names]
    below = [known[name].median - known[name].low for name in names]
    above = [known[name].high - known[name].median for name in names]
    ours = (OURS, *results.installations)
    colours = [OUR_COLOUR if name in ours else OTHER_COLOUR for name in names]
    axis.barh(
        names, medians, xerr=(below, above), color=colours, error_kw={"elinewidth": 1, "capsize": 2}
    )
    axis.invert_yaxis()
    axis.set_title(results.rows[row].title, fontsize=9)
    axis.set_xlabel(results.rows[row].unit, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
