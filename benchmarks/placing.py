"""What it costs to find workers for many jobs at once."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator

from airflow_jobdeploy.core.assigning import assign
from airflow_jobdeploy.core.gpus import GB
from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.placement import Wanted
from airflow_jobdeploy.core.standing import WorkerView
from benchmarks.lab import Lab
from benchmarks.rows import Measured
from benchmarks.simulated import DEMANDS, MODELS, WEIGHTS

_WORKERS, _JOBS, _ROUNDS = 100, 1000, 15


def place(lab: Lab) -> Iterator[Measured]:
    """Workers of four kinds, mostly busy; seven demands, and five projects of a gigabyte."""
    chance = random.Random(1)
    workers = [_worker(f"w{number}", number, chance) for number in range(_WORKERS)]
    jobs = [
        Wanted(
            uid=f"{number:04d}",
            demand=chance.choices(DEMANDS, WEIGHTS)[0],
            trees={f"project-{chance.randrange(5)}": GB},
            waited_s=chance.random() * 1000,
        )
        for number in range(_JOBS)
    ]
    lab.say(f"{_ROUNDS} rounds")
    yield Measured(row="place", ours=statistics.median(_ms(jobs, workers) for _ in range(_ROUNDS)))


def _ms(jobs: list[Wanted], workers: list[WorkerView]) -> float:
    begun = time.process_time()
    assign(jobs, workers)
    return (time.process_time() - begun) * 1000


def _worker(name: str, number: int, chance: random.Random) -> WorkerView:
    model, memory, count = MODELS[number % len(MODELS)]
    gpus = [{"index": i, "uuid": f"{name}-{i}", "model": model, "memory_bytes": memory} for i in range(count)]
    held = [{"gpus": [gpu["uuid"]], "cpu": 2, "memory": 8 * GB} for gpu in gpus if chance.random() < 0.8]
    room = Room(capacity={"cpu": 64, "memory": 512 * GB, "gpus": gpus}, leases=held)
    return WorkerView(name=name, room=room, holds=frozenset({f"project-{number % 5}"}))
