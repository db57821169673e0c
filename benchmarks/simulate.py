"""`make simulate`: run the simulation, print what came of it, write the table of docs/explanation/queue.md."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from airflow_jobdeploy.core.words import duration
from benchmarks.simulated import Scale
from benchmarks.simulation import World


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one run. Costs are CPU time in microseconds, while the first and the last tenth of the jobs came."""

    scale: Scale
    counts: Counter[str]
    unserved: int
    leases_left: int
    decision_us: tuple[float, float]
    place_us: tuple[float, float]
    wait_median_s: float
    wait_worst_s: float

    @property
    def leases_lost(self) -> int:
        """Granted, and not accounted for."""
        ends = ("ended", "given back", "void", "lost with a host", "others")
        return self.counts["granted"] - sum(self.counts[end] for end in ends)

    def rows(self) -> list[tuple[str, str]]:
        """For people: what, how much."""
        counts, scale, lost = self.counts, self.scale, self.leases_lost + self.leases_left
        decision, place = (f"{first:.0f}, {last:.0f} µs" for first, last in (self.decision_us, self.place_us))
        return [
            ("workers; jobs", f"{scale.workers:,}; {scale.jobs:,}"),
            ("GPUs or cores given out twice", "0"),
            ("jobs that never started", f"{self.unserved:,}"),
            ("first in line, and passed over", "0"),
            (
                "leases granted; lost, or left at the end",
                f"{counts['granted']:,}; {lost}",
            ),
            ("of them given back (two hosts granted at once)", f"{counts['given back']:,}"),
            ("of them void (whoever waited was killed)", f"{counts['void']:,}"),
            ("fillers that passed the first in line", f"{counts['fillers']:,}"),
            ("waiters killed; hosts killed, with leases", _killed(counts)),
            ("the longest line of a host", f"{counts['longest line']:,}"),
            ("wait of a job: median; worst", f"{self.wait_median_s:.1f} s; {duration(self.wait_worst_s)}"),
            ("decisions of hosts", f"{counts['decisions']:,}"),
            ("a decision, as the first and the last tenth of the jobs came", decision),
            ("a look of a waiter at all workers, likewise", place),
        ]


def _killed(counts: Counter[str]) -> str:
    return f"{counts['waiters killed']:,}; {counts['hosts killed']:,}, {counts['lost with a host']:,}"


def simulate(scale: Scale) -> Outcome:
    """One run. AssertionError when a promise is broken."""
    world = World(scale)
    world.run()
    waits = sorted(world.waits_s) or [0.0]
    (decided, placed), (decided_last, placed_last) = world.cost_us(0), world.cost_us(9)
    return Outcome(
        scale=scale,
        counts=world.counts,
        unserved=sum(1 for job in world.jobs if not job.is_done),
        leases_left=sum(len(host.leases) for host in world.hosts.values()),
        decision_us=(decided, decided_last),
        place_us=(placed, placed_last),
        wait_median_s=waits[len(waits) // 2],
        wait_worst_s=waits[-1],
    )


# -- the page --------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "queue.md"
BEGIN, END = "<!-- simulation: made by `make simulate` -->\n", "<!-- end of simulation -->"


def main(options: list[str]) -> int:
    """Run, print, and write the table of the page; `options`: the number of jobs, which writes nothing."""
    outcome = simulate(Scale(jobs=int(options[0])) if options else Scale())
    rows = outcome.rows()
    width = max(len(what) for what, _ in rows)
    print("\n".join(f"{what.ljust(width)}  {amount}" for what, amount in rows))
    if not options:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        table = "".join(f"| {what} | {amount} |\n" for what, amount in rows)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n| | |\n| --- | --: |\n{table}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
