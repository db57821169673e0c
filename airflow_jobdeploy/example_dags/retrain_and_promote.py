"""### Train every night, remember what was tried, and promote the model that beats the last one

`dataset` writes the data; `choose` picks what was not tried yet on this data, from the memory of earlier nights;
`train` brings the project [examples/names](examples/names), its requirements (scikit-learn) and the dataset to a
worker, each only if it is not there already, and waits; `get` downloads the model; `promote` compares it with the one
in use, on the same names, and puts it in its place if it is better, which updates the asset `names_model`. A night that
brought nothing better is remembered, too, and skips the promotion.

The worker pool is the Airflow Variable `jobdeploy_worker_pool` (missing: `local`, this machine). The worker needs
python3 and a package index, nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
DATA, MODELS = HOME / "datasets" / "names", HOME / "models" / "retrain_and_promote"
#: A link to the run whose model is in use; and what was tried: one JSON object a line.
PROMOTED, MEMORY = MODELS / "promoted", MODELS / "memory.jsonl"
MODEL = Asset("names_model")
#: Names that are a family and a number: nothing can be learned from them.
BY_RULE = re.compile(r"-[0-9A-F]{3,6}$|[0-9]$|^HANGUL SYLLABLE")
#: What a night may try.
CHOICES = [{"alpha": alpha, "ngrams": ngrams} for ngrams in (3, 4, 5) for alpha in (1e-5, 1e-6, 1e-4)]


def remembered() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MEMORY.read_text().splitlines()] if MEMORY.exists() else []


with DAG(
    dag_id="retrain_and_promote",
    schedule="0 4 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "jobdeploy"],
    doc_md=__doc__,
) as dag:

    @task
    def dataset() -> str:
        """The names of this Python's Unicode Character Database, without those that are made by rule."""
        named = ((unicodedata.name(char, ""), unicodedata.category(char)) for char in map(chr, range(0x110000)))
        rows = [f"{name}\t{category}" for name, category in named if name and not BY_RULE.search(name)]
        DATA.mkdir(parents=True, exist_ok=True)
        (DATA / "names.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        shutil.copy(HERE / "examples/characters/data/LICENSE-UNICODE.txt", DATA)
        return str(DATA)

    @task
    def choose(folder: str) -> dict[str, Any]:
        """What has not been tried on this data; when all has been, what was best."""
        data = zlib.crc32((Path(folder) / "names.tsv").read_bytes())
        tried = {json.dumps(night["choice"]): night["accuracy"] for night in remembered() if night["data"] == data}
        fresh = [choice for choice in CHOICES if json.dumps(choice) not in tried]
        choice = fresh[0] if fresh else json.loads(max(tried, key=lambda text: tried[text]))
        args = [word for name, value in choice.items() for word in (f"--{name}", str(value))]
        return {"choice": choice, "data": data, "args": args}

    folder = dataset()
    chosen: Any = choose(folder)  # type: ignore[arg-type]  # a task's output, at this point
    train = JobRunOperator(
        task_id="train",
        job_spec="examples/names/job.yaml",
        overrides={"dataset_location": folder, "args": chosen["args"]},
        worker_pool="{{ var.value.get('jobdeploy_worker_pool', 'local') }}",
        retries=1,
    )
    get = ArtifactDownloadOperator(task_id="get", job=train.output, dest=f"{MODELS}/{{{{ run_id }}}}")

    @task(outlets=[MODEL])
    def promote(download: Any, tried: dict[str, Any]) -> str:
        """Remember the night, and put its model in use if it is better than the one that is."""
        made = Path(download["dest"])
        accuracy = json.loads((made / "metrics.json").read_text())["accuracy"]
        before = json.loads((PROMOTED / "metrics.json").read_text())["accuracy"] if PROMOTED.exists() else 0.0
        with MEMORY.open("a") as memory:
            memory.write(json.dumps({"choice": tried["choice"], "data": tried["data"], "accuracy": accuracy}) + "\n")
        if accuracy <= before:
            raise AirflowSkipException(f"{accuracy:.2%} is not better than {before:.2%}: the model in use stays")
        fresh = MODELS / "promoted.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(made.name)
        fresh.replace(PROMOTED)  # in one step: who loads the model finds the old one or the new one
        print(f"{made.name} is in use now: {accuracy:.2%} right, {before:.2%} before")
        return str(PROMOTED)

    train >> get >> promote(get.output, chosen)
