"""Results as tables: ratios against goals, and the figures themselves, in Markdown."""

from __future__ import annotations

from benchmarks.goals import GOALS
from benchmarks.results import BEST_TUNNEL, OURS, Results, Spread, machine

RATIO_COLUMNS = (BEST_TUNNEL, "socat", "haproxy", "ssh -R", "direct")
VERDICTS = {True: "reached", False: "short", None: "not measured"}


def number(value: float) -> str:
    """Three significant digits, and thousands in full."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread_text(spread: Spread | None) -> str:
    """``median (min-max)``, or a dash."""
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"


def ratio_text(spread: Spread | None) -> str:
    """``min/median/max`` of a ratio, or a dash."""
    if spread is None:
        return "-"
    return f"{spread.low:.2f} / **{spread.median:.2f}** / {spread.high:.2f}"


def ratio_table(results: Results) -> list[list[str]]:
    """Divide this project by others, min/median/max over the rounds."""
    table = [["what", "better", *(f"/ {column}" for column in RATIO_COLUMNS)]]
    for name, row in results.rows.items():
        cells = []
        for column in RATIO_COLUMNS:
            other, text = results.reference(name, column), ratio_text(results.ratio(name, column))
            cells.append(f"{text} ({other})" if column == BEST_TUNNEL and text != "-" else text)
        if any(cell != "-" for cell in cells):
            table.append([row.title, "more" if row.higher_is_better else "less", *cells])
    return table


def figure_table(results: Results) -> list[list[str]]:
    """Median (min-max) of every row and relay."""
    peers = [peer for peer in results.peers if any(peer in s for s in results.samples.values())]
    table = [["what", "unit", *peers]]
    for name, row in results.rows.items():
        table.append([row.title, row.unit, *(spread_text(results.spread(name, p)) for p in peers)])
    return table


def goal_table(results: Results) -> list[list[str]]:
    """Each goal, what was measured, and whether that is enough."""
    installations = [OURS, *results.installations]
    heads = ["measured", *results.installations]
    table = [["what", "goal", *(cell for head in heads for cell in (head, ""))]]
    for goal in GOALS:
        if goal.row not in results.rows:
            continue
        cells = []
        for ours in installations:
            spread = goal.measured(results, ours)
            cells.append(ratio_text(spread) if goal.to else spread_text(spread))
            cells.append(VERDICTS[goal.reached(results, ours)])
        table.append([results.rows[goal.row].title, goal.text(), *cells])
    return table


def markdown(table: list[list[str]]) -> str:
    """Lay out a Markdown table whose columns also line up in a terminal."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def document(results: Results) -> str:
    """Everything, as a Markdown text."""
    parts = [
        "# Results of `python -m benchmarks`",
        "\n".join(f"- {name}: {value}" for name, value in machine().items() if value),
        "\n".join(f"- {name}: {value}" for name, value in results.settings.items()),
        "## Ratios (this project / other; min / median / max of the rounds)",
        markdown(ratio_table(results)),
        "## Goals",
        markdown(goal_table(results)),
        "## Figures (median, with smallest and largest)",
        markdown(figure_table(results)),
        "## Relays",
        markdown(
            [["relay", "version", "options"]]
            + [[name, about["version"], about["options"]] for name, about in results.peers.items()]
        ),
    ]
    if results.failures:
        parts += ["## Failures", "\n".join(f"- {text}" for text in results.failures)]
    return "\n\n".join(parts) + "\n"
