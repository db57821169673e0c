"""The definitions of `airflow jobdeploy ...`, read on every `airflow` command: what runs is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

_ID = "the beginning of a job's or resource's id (at least 4 characters)"
_PARAMS = (
    "k=v, as often as needed or several with commas (a=1,b=2); a value in double quotes may hold commas; "
    "@file.yaml takes all from a file"
)


def get_cli_commands() -> list[GroupCommand]:
    """For Airflow: the group `jobdeploy`."""
    from airflow.cli.cli_config import GroupCommand

    pools = GroupCommand(name="pools", help="Worker pools", subcommands=tuple(_pool_commands()))
    commands = (
        *_file_commands(),
        *_starting_commands(),
        *_job_commands(),
        *_ending_commands(),
        *_ddl_commands(),
        pools,
    )
    return [
        GroupCommand(
            name="jobdeploy",
            help="Run jobs on worker pools, and look after them",
            description="Run templates and job specs on this machine or on any SSH host, and look after them.",
            subcommands=commands,
        )
    ]


def _arg(*flags: str, **facts: Any) -> Arg:
    from airflow.cli.cli_config import Arg

    return Arg(flags, **{**facts, "help": facts["help"][0].upper() + facts["help"][1:]})


def _command(name: str, where: str, help_text: str, *args: Arg, output: bool = True) -> ActionCommand:
    """A command of ours; `where` is the module and function in `commands`."""
    from airflow.cli.cli_config import ARG_OUTPUT, ActionCommand, lazy_load_command

    verbose = _arg("-v", "--verbose", help="show what libraries log, and tracebacks", action="store_true")
    return ActionCommand(
        name=name,
        help=help_text,
        func=lazy_load_command(f"airflow_jobdeploy.commands.{where}"),
        args=(*args, *([ARG_OUTPUT] if output else []), verbose),
    )


def _pool() -> Arg:
    return _arg(
        "--worker-pool",
        metavar="NAME",
        help="`local` (the default), or the id of a connection of type jobdeploy, ssh or docker",
    )


def _params() -> Arg:
    return _arg("--params", "--set", dest="params", action="append", metavar="K=V", help=_PARAMS)


def _places() -> tuple[Arg, Arg]:
    return (
        _arg("--project-dir", metavar="DIR", help="a folder of this machine, sent to the worker to run in"),
        _arg("--workdir", metavar="DIR", help="a folder that is on the worker already, to run in"),
    )


def _detach() -> Arg:
    return _arg("-d", "--detach", action="store_true", help="print the job's id as soon as it has started, do not wait")


def _file_commands() -> list[ActionCommand]:
    return [
        _command(
            "validate",
            "checking.validate",
            "Check templates, job specs and worker pools; all problems at once",
            _arg("files", nargs="+", metavar="FILE", help="a template, job spec or worker pool (told by its content)"),
            _arg("--worker-pool", metavar="NAME", help="check for this pool; by default the spec's own, else `local`"),
        ),
        _command(
            "render",
            "checking.render",
            "Show what would run, secrets as references",
            _arg("file", metavar="FILE", help="a template, job spec or worker pool"),
            _params(),
            *_places(),
            _arg("--build", metavar="NAME", help="only this build, and those that it runs"),
        ),
    ]


def _starting_commands() -> list[ActionCommand]:
    pool_of_spec = _arg("--worker-pool", metavar="NAME", help="by default the spec's own, else `local`")
    spec = _arg("file", metavar="SPEC", help="a job spec")
    template = _arg("file", metavar="TEMPLATE", help="a template")
    of_id, name = _arg("id", metavar="ID", help=_ID), _arg("build", metavar="NAME", help="the build, as watch or purge")
    return [
        _command(
            "run",
            "starting.run",
            "Run a job spec, and show its log",
            spec,
            _params(),
            pool_of_spec,
            *_places(),
            _detach(),
        ),
        _command(
            "plan",
            "planning.plan",
            "Show where a job spec would run: every worker, why or why not, what is to be sent",
            spec,
            _params(),
            pool_of_spec,
            *_places(),
        ),
        _command(
            "up",
            "starting.up",
            "Bring a template up, and show its log",
            template,
            _params(),
            _pool(),
            *_places(),
            _detach(),
        ),
        _command("down", "starting.down", "Take down what `up` made", of_id, _pool(), _detach()),
        _command("build", "starting.build", "Run a build of what `up` made", name, of_id, _pool(), _detach()),
        _command(
            "rm",
            "starting.rm",
            "Take down if that was not done, then forget",
            of_id,
            _pool(),
            _arg("--purge", action="store_true", help="run the build `purge` before"),
            output=False,
        ),
    ]


def _job_commands() -> list[ActionCommand]:
    of_id = _arg("id", metavar="ID", help=_ID)
    return [
        _command(
            "ls",
            "listing.ls",
            "List live jobs and active resources",
            _pool(),
            _arg("-a", "--all", action="store_true", help="those that have ended, too"),
            _arg("--status", action="append", metavar="STATUS", help="only jobs of this status; may be given again"),
            _arg("--name", metavar="NAME", help="only jobs of this name"),
            _arg("--tag", action="append", metavar="TAG", help="only jobs with this tag; again: with all of them"),
            _arg("--owner", action="append", metavar="OWNER", help="only jobs of this owner; may be given again"),
            _arg("--since", metavar="TIME", help="only jobs not older than that: 2h, 1d12h, or a date"),
            _arg("--until", metavar="TIME", help="only jobs not younger than that"),
            _arg("-n", "--limit", type=int, metavar="N", help="at most so many jobs, the newest"),
        ),
        _command(
            "status",
            "showing.status",
            "Show how a job is",
            of_id,
            _pool(),
            _arg("-w", "--wait", action="store_true", help="wait for its end; the exit code is the job's"),
        ),
        _command("view", "showing.view", "Show all that is recorded of a job", of_id, _pool()),
        _command(
            "logs",
            "fetching.logs",
            "Show a job's log",
            of_id,
            _pool(),
            _arg("-f", "--follow", action="store_true", help="go on until the job ends; the exit code is the job's"),
            _arg("-n", "--tail", type=int, metavar="N", help="only the last N lines"),
            output=False,
        ),
        _command(
            "download",
            "fetching.download",
            "Fetch a job's output files; those that are here already are left alone",
            _arg("id", nargs="?", metavar="ID", help=_ID),
            *_of_ddl(),
            _arg("--dest", required=True, help="a folder of this machine, or a URL: s3://connection@bucket/prefix"),
            _arg(
                "--patterns",
                action="append",
                metavar="P",
                help="which files: *.json, checkpoints/**; may be given again",
            ),
            _arg("--partial", action="store_true", help="also while the job runs: what is there now"),
        ),
    ]


def _of_ddl(*, required: bool = False) -> tuple[Arg, Arg, Arg]:
    """Options of DDL's commands."""
    needed = {"required": True} if required else {}
    return (
        _arg("--job_uuid", "--job-uuid", metavar="ID", help=_ID, **needed),
        _arg("--task_config", "--task-config", metavar="FILE", help="a task.yaml or job spec that names the pool"),
        _arg("--worker-pool", metavar="NAME", help="by default that of the file, else `local`"),
    )


def _ddl_commands() -> list[ActionCommand]:
    return [
        _command(
            "submit",
            "ddl.submit",
            "Submit a task.yaml with the project in the current directory, as `ddlcli submit` did",
            _arg("--task_config", "--task-config", required=True, metavar="FILE", help="a task.yaml, or any job spec"),
            _arg("--worker-pool", metavar="NAME", help="by default that of the file, else `local`"),
            _arg("--project-dir", metavar="DIR", help="a folder of this machine, instead of the current directory"),
            _arg("-d", "--dirty", action="store_true", help="send changes that are not committed, too"),
        ),
        _command(
            "progress",
            "ddl.progress",
            "Show how a job is, as `ddlcli progress` did",
            *_of_ddl(required=True),
        ),
    ]


def _ending_commands() -> list[ActionCommand]:
    ids = _arg("ids", nargs="+", metavar="ID", help=_ID)
    return [
        _command(
            "stop",
            "ending.stop",
            "Stop jobs: signal, grace, KILL, until no process is left",
            ids,
            _pool(),
            _arg("--reason", metavar="TEXT", help="what their records say"),
            _arg("--no-wait", action="store_true", help="do not wait for the end"),
            output=False,
        ),
        _command(
            "preempt",
            "ending.preempt",
            "Make a job give up its place; who waits for it resumes it from its checkpoint",
            _arg("id", metavar="ID", help=_ID),
            _pool(),
            _arg("--reason", metavar="TEXT", help="what its record says"),
            _arg("--signal", metavar="NAME", help="instead of the job's own: SIGUSR2"),
            _arg("--grace", metavar="TIME", help="instead of the job's own time to write a checkpoint: 30s, 2m"),
            _arg("--no-wait", action="store_true", help="do not wait until it has made room"),
            output=False,
        ),
        _command(
            "bump",
            "ending.bump",
            "Let a job run longer than its life_span",
            _arg("id", metavar="ID", help=_ID),
            _arg("time", metavar="TIME", help="how much longer: 30m, 2h"),
            _pool(),
            output=False,
        ),
        _command(
            "forget",
            "ending.forget",
            "Remove the records of ended jobs, or give up jobs whose worker will not come back",
            ids,
            _pool(),
            _arg("--lost", action="store_true", help="its worker will not come back: take the job (whole id) for lost"),
            output=False,
        ),
        _command(
            "reap", "ending.reap", "Stop live jobs of this Airflow whose task is over or gone", _pool(), output=False
        ),
    ]


def _pool_commands() -> list[ActionCommand]:
    name = _arg(
        "worker_pool", metavar="NAME", help="`local`, or the id of a connection of type jobdeploy, ssh or docker"
    )
    some = _arg("workers", nargs="*", metavar="WORKER", help="may be left out where the pool has one")
    why = _arg("--why", metavar="TEXT", help="told to everybody whose jobs would go there")
    return [
        _command(
            "ls",
            "pools.ls",
            "List the worker pools, or who uses their GPUs",
            _arg("--usage", action="store_true", help="GPU hours of each owner, of the jobs that are still recorded"),
            _arg("--worker-pool", metavar="NAME", help="with --usage: this pool alone"),
        ),
        _command(
            "sync",
            "accounting.sync",
            "Keep a pool of Airflow's own for each worker pool, with a slot for each GPU",
            _arg("pools", nargs="*", metavar="NAME", help="worker pools; by default all connections of type jobdeploy"),
        ),
        _command("cordon", "upkeep.cordon", "Let workers take no new jobs", name, some, why, output=False),
        _command("uncordon", "upkeep.uncordon", "Let workers take new jobs again", name, some, output=False),
        _command(
            "drain",
            "upkeep.drain",
            "Let workers take no new jobs, and preempt those there that are preemptible",
            name,
            some,
            why,
            _arg("--wait", action="store_true", help="until no job is left there"),
            output=False,
        ),
        _command(
            "test",
            "pools.test",
            "Ask every worker of pools who it is; no machine may be in pools of two kinds",
            _arg("worker_pools", nargs="*", metavar="NAME", help="worker pools; by default all that there are"),
        ),
        _command(
            "gc",
            "collecting.gc",
            "Remove what nobody needs: old jobs, and code, data and images above the pool's cache_limit",
            name,
            _arg("-n", "--dry-run", help="only show what would go, and why", action="store_true"),
        ),
    ]
