"""``python -m benchmarks``: options, and what runs in which order."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import charts, report
from benchmarks.delay import DELAY_MS, LOSS_PERCENT, DelayedScene
from benchmarks.measure import COSTS, LOADS, Cost, Load
from benchmarks.measure.base import QUICK, Scale
from benchmarks.peers import ALL, Peer
from benchmarks.peers.proxyservice import ProxyService, installed_in
from benchmarks.processes import BenchmarkError, raise_descriptor_limit, stop_all
from benchmarks.results import Results
from benchmarks.rounds import LoadRounds, run_costs
from benchmarks.scene import Scene

RESULTS = Path(__file__).parent / "results"
DELAY_PREFIX = "delay_"
# Two descriptors for each of 10,000 leases or visitors, and some more.
DESCRIPTORS = 32_768
# With 50 ms it takes seconds until windows and congestion control have grown.
DELAY_FACTOR = 3.0
# Delay, memory and growth vary little, and take minutes at full scale.
MOST_ROUNDS_OF_DELAY = MOST_ROUNDS_OF_COSTS = 3
QUICK_LOADS = ("throughput_1_up", "throughput_8_down", "round_trip", "connections", "http_close")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="This project and its peers, side by side, on loopback.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round, small counts: about a minute"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this measurement (again for more)"
    )
    parser.add_argument("--peers", metavar="A,B", help="only these relays")
    parser.add_argument("--rounds", type=int, help="how often everything is repeated (5)")
    parser.add_argument("--seconds", type=float, help="length of one load (3)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)"
    )
    parser.add_argument(
        "--installed",
        action="append",
        default=[],
        type=installation,
        metavar="NAME=DIR",
        help="also this project as installed for another Python: DIR has its twistd (again for "
        "more)",
    )
    parser.add_argument(
        "--warm-up",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="of each load before it counts: for compilers at run time (0)",
    )
    parser.add_argument("--add", action="store_true", help="add to the results that are there")
    parser.add_argument("--list", action="store_true", help="show the names for --only and --peers")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.5 if options.quick else 3.0)
    return options


def installation(text: str) -> type[ProxyService]:
    """Read NAME=DIR. Raises ArgumentTypeError."""
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return installed_in(Path(directory).absolute(), name)


class Plan:
    """What was asked for: loads on loopback, loads with delay, costs, relays."""

    def __init__(self, options: argparse.Namespace) -> None:
        only = options.only
        self.loads = [x for x in LOADS if _wanted(x.name, "loads", only, options.quick)]
        self.delayed = [
            x for x in LOADS if _wanted(DELAY_PREFIX + x.name, "delay", only, quick=options.quick)
        ]
        self.costs = [x for x in COSTS if _wanted(x.name, "costs", only, options.quick)]
        names = options.peers.split(",") if options.peers else None
        self.peers = [p for p in ALL if names is None or p.name in names] + options.installed
        known = {peer.name for peer in ALL} | {"loads", "delay", "costs"} | _names()
        unknown = [name for name in [*(only or ()), *(names or ())] if name not in known]
        if unknown:
            raise BenchmarkError(f"unknown: {', '.join(unknown)} (see --list)")


def _names() -> set[str]:
    loads = {load.name for load in LOADS}
    return loads | {DELAY_PREFIX + name for name in loads} | {cost.name for cost in COSTS}


def _wanted(name: str, group: str, only: list[str] | None, quick: bool) -> bool:
    if only:
        return name in only or group in only
    return not quick or name in QUICK_LOADS or group == "costs"


def present(plan: Plan, results: Results) -> list[type[Peer]]:
    """Find the relays that can run here; say which cannot, and why."""
    found = []
    for peer in plan.peers:
        if why := peer.missing():
            print(f"without {peer.name}: {why}")
            continue
        found.append(peer)
        about = {"version": peer.version(), "options": peer.options}
        results.peers[peer.name] = about | ({} if peer in ALL else {"installed": "yes"})
    order = {peer.name: place for place, peer in enumerate(ALL)}
    results.peers = dict(
        sorted(results.peers.items(), key=lambda item: order.get(item[0], len(order)))
    )
    return found


def run(options: argparse.Namespace, directory: Path) -> Results:
    """Everything that was asked for; what was measured is kept also when it is interrupted."""
    plan = Plan(options)
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / "results.json"
    results = Results.load(file) if options.add and file.exists() else Results()
    peers = present(plan, results)
    limit = raise_descriptor_limit(DESCRIPTORS)
    results.settings = {
        "rounds": options.rounds,
        "seconds of a load": options.seconds,
        "seconds of each load before, not counted": options.warm_up,
        "seconds of a bulk load with delay": options.seconds * DELAY_FACTOR,
        "descriptors": limit,
        **results.settings,
    }
    try:
        run_loopback(plan.loads, peers, results, options, directory)
        run_delayed(plan.delayed, peers, results, options, directory)
        scale = QUICK if options.quick else Scale()
        scale = dataclasses.replace(scale, warm_up_seconds=options.warm_up)
        for _ in range(min(options.rounds, MOST_ROUNDS_OF_COSTS) if plan.costs else 0):
            run_costs(Scene("costs", directory), peers, plan.costs, results, scale, print)
    except KeyboardInterrupt:
        print("interrupted; what was measured so far follows", file=sys.stderr)
    finally:
        stop_all()
        results.save(file)
    return results


def run_loopback(
    loads: Sequence[Load],
    peers: Sequence[type[Peer]],
    results: Results,
    options: argparse.Namespace,
    directory: Path,
) -> None:
    if loads:
        rounds = LoadRounds(Scene("loopback", directory), peers, results, print)
        _rounds(rounds, loads, options.rounds, options.seconds, options.warm_up)


def run_delayed(
    loads: Sequence[Load],
    peers: Sequence[type[Peer]],
    results: Results,
    options: argparse.Namespace,
    directory: Path,
) -> None:
    if not loads:
        return
    place = directory / "delay"
    place.mkdir()
    delayed = DelayedScene(place)
    try:
        delayed.start()
    except BenchmarkError as error:
        print(f"without delay: network namespaces are not permitted or not there ({error})")
        return
    results.settings["delay"] = f"{DELAY_MS:g} ms, {LOSS_PERCENT:g} % loss by {delayed.wire}"
    try:
        rounds = LoadRounds(
            delayed.scene, peers, results, print, DELAY_PREFIX, growth_factor=DELAY_FACTOR
        )
        count = min(options.rounds, MOST_ROUNDS_OF_DELAY)
        _rounds(rounds, loads, count, options.seconds, 0.0)  # there the wire is what is slow
    finally:
        delayed.stop()


def _rounds(
    rounds: LoadRounds, loads: Sequence[Load], count: int, seconds: float, warm_up: float
) -> None:
    try:
        rounds.start()
        if warm_up:
            rounds.warm_up(loads, warm_up)
        for number in range(count):
            print(f"round {number + 1} of {count}")
            rounds.run(loads, number, seconds)
    finally:
        rounds.stop()


def write(results: Results, directory: Path) -> None:
    """Put the tables on stdout and in a file, and draw the charts where matplotlib is there."""
    (directory / "results.md").write_text(report.document(results))
    tables = (report.figure_table, report.ratio_table, report.goal_table)
    for table in tables:
        rows = table(results)
        if len(rows) > 1:
            print("\n" + report.markdown(rows))
    try:
        written = charts.draw(results, directory)
    except ImportError:
        print("\nwithout charts: matplotlib is not installed")
    else:
        print("\n" + "\n".join(str(path) for path in written))
    for failure in results.failures:
        print(f"! {failure}")


def show_names() -> None:
    costs: Sequence[Cost] = COSTS
    print("loads:", *(load.name for load in LOADS))
    print("delay:", *(DELAY_PREFIX + load.name for load in LOADS))
    print("costs:", *(cost.name for cost in costs))
    print("peers:", ",".join(peer.name for peer in ALL))


def main() -> int:
    options = parse()
    if options.list:
        show_names()
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
            results = run(options, Path(directory))
        write(results, options.results)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
