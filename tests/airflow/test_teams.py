"""An Airflow of several teams ([core] multi_team): whose job it is, and by which name all of them know their jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.standalone import START_S, Airflow, Run, wait_for
from tests.servers import postgres

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.scaled,
    pytest.mark.slow,
    pytest.mark.timeout(START_S + 900),
]

#: Of speech no triggerer is there: its task waits by itself.
TEAMS = {"vision": True, "speech": False}
DAG = """
from tests.airflow.probes import probed_dag

dag = probed_dag({team!r}, deferrable={deferrable}, retries=0, wants={{"cpu_count": 0.01}})
"""


class Teams(Airflow):
    """Each team has a bundle of DAGs; the first has a triggerer. Nobody has given this Airflow a name for its jobs."""

    DAG_IDS = frozenset(TEAMS)

    def _made_environment(self, settings: Any) -> dict[str, str]:
        bundles = [self._bundle(team, deferrable) for team, deferrable in TEAMS.items()]
        made = super()._made_environment(settings)
        del made["AIRFLOW__JOBDEPLOY__DEPLOYMENT"]
        more = {"CORE__MULTI_TEAM": "True", "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles)}
        return {**made, **{f"AIRFLOW__{key}": value for key, value in more.items()}}

    def _bundle(self, team: str, deferrable: bool) -> dict[str, Any]:
        folder = self.folder / "bundles" / team
        folder.mkdir(parents=True)
        (folder / "dag.py").write_text(DAG.format(team=team, deferrable=deferrable))
        local = "airflow.dag_processing.bundles.local.LocalDagBundle"
        return {"name": team, "classpath": local, "kwargs": {"path": str(folder)}, "team_name": team}

    def command(self, *words: str) -> None:
        """`airflow ...`, to its end."""
        program = str(Path(sys.executable).with_name("airflow"))
        done = subprocess.run(
            [program, *words], env=self._environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def start(self) -> None:
        self.command("db", "migrate")
        for team in TEAMS:
            self.command("teams", "create", team)
        super().start()
        self._processes.append(self._start("triggerer", "--team-name", "vision", "--skip-serve-logs"))


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[Teams]:
    with postgres.running() as database:
        made = Teams(tmp_path, {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("postgresql+psycopg2")})
        try:
            made.start()
            wait_for(made.is_up, "airflow standalone", START_S, every_s=1)
            yield made
        finally:
            for run in made.runs.iterdir():
                (run / "go").touch()
            made.stop()


def told(run: Run) -> tuple[str, str]:
    """(deployment, team) of the run's job, as its worker knows them."""
    (record,) = run.records()
    plan = json.loads((record / "plan.json").read_text())
    return plan["key"]["deployment"], plan["lease"]["ticket"]["team"]


def test_each_job_counts_for_its_dags_team_and_all_are_of_one_deployment(airflow: Teams) -> None:
    unnamed = airflow.trigger("vision")
    unnamed.until("failed")
    log = airflow.ask("GET", f"/api/v2/dags/vision/dagRuns/{unnamed.run_id}/taskInstances/run/logs/1?full_content=true")
    assert "airflow variables set jobdeploy_deployment NAME" in json.dumps(log)
    assert unnamed.records() == []

    airflow.command("variables", "set", "jobdeploy_deployment", "ours")
    runs = {team: airflow.trigger(team) for team in TEAMS}
    for run in runs.values():
        run.begun()
    runs["vision"].until("deferred")
    runs["speech"].until("running")
    assert {team: told(run) for team, run in runs.items()} == {team: ("ours", team) for team in TEAMS}
    for run in runs.values():
        run.go()
        run.until("success")
