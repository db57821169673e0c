"""What all operators share: files, pools, jobs given as arguments, and how Airflow renders them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_jobdeploy.operators.arguments import refuse_strangers

# Airflow parses DAG files again and again, in a new process each time: what only a running task needs is
# imported where it is used, in all modules of operators and sensors (`make bench` has a row for it).
if TYPE_CHECKING:
    from airflow_jobdeploy.core.plan import JobKey
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
    from airflow_jobdeploy.hooks.jobs import Jobs

#: A mapping given for one of these is left alone, or but for its builds: their Jinja is ours.
_RAW_FIELDS = frozenset({"template"})
_RAW_KEYS = frozenset({"builds"})


class JobDeployOperator(BaseOperator):
    """Base of the operators. Constructors only assign; all reading and checking is done in the task."""

    #: Our files are never rendered by Airflow: their Jinja is ours.
    template_ext: Sequence[str] = ()
    ui_color = "#e8f4ea"

    #: Arguments of sibling operators -> the operator to use instead.
    strangers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **kwargs: Any) -> None:
        refuse_strangers(type(self).__name__, kwargs, self.strangers)
        super().__init__(**kwargs)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Any, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render all fields but those whose Jinja is ours; called by Airflow for plain and for mapped tasks."""
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        fields = [name for name in template_fields if not self._is_raw(name)]
        for name in fields:
            # Airflow leaves Path objects as they are: dest=Path("models") / "{{ run_id }}" would be taken literally.
            # An ObjectStoragePath is none of these, but has a conn_id.
            if isinstance(value := getattr(self, name, None), PurePath) or hasattr(value, "conn_id"):
                setattr(self, name, str(value))
        kept = {name: _take_raw(getattr(self, name, None)) for name in fields}
        for name, (rest, raw) in kept.items():
            if raw:
                setattr(self, name, rest)
        super()._do_render_template_fields(self, fields, context, jinja_env, seen_oids)
        for name, (_, raw) in kept.items():
            if raw:
                setattr(self, name, {**getattr(self, name), **raw})

    def _is_raw(self, field: str) -> bool:
        return field in _RAW_FIELDS and isinstance(getattr(self, field, None), Mapping)

    # -- for subclasses ----------------------------------------------------------------------------------------

    def _hook(self, worker_pool: str) -> JobDeployHook:
        from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

        return JobDeployHook(worker_pool)

    def _folders(self) -> tuple[Path, ...]:
        """Where relative paths of this task are looked up."""
        from airflow_jobdeploy.hooks import files

        return files.folders(self.get_dag())

    def _key(self, context: Mapping[str, Any]) -> JobKey:
        """Where the job comes from, for its record."""
        from airflow_jobdeploy.core.plan import JobKey
        from airflow_jobdeploy.hooks.deployment import deployment_id

        ti = context["ti"]
        return JobKey(
            deployment=deployment_id(self._team(context)),
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=ti.map_index if ti.map_index is not None else -1,
        )

    def _dag_bundle(self, context: Mapping[str, Any]) -> dict[str, str]:
        """The version of the DAG bundle that this task runs from, if it has versions."""
        from airflow_jobdeploy.hooks import runtime

        return runtime.dag_bundle(context["ti"])

    def _team(self, context: Mapping[str, Any]) -> str:
        """The team of Airflow's own that the DAG belongs to."""
        from airflow_jobdeploy.hooks import runtime

        return runtime.team(context)

    def _read_jobs(self, value: Any, worker_pool: str | None) -> Jobs:
        from airflow_jobdeploy.hooks.jobs import read_jobs

        return read_jobs(value, worker_pool=worker_pool)


def _take_raw(value: Any) -> tuple[Any, dict[str, Any]]:
    """A mapping without the keys that Airflow must not render, and those keys."""
    if not isinstance(value, Mapping) or not _RAW_KEYS & set(value):
        return value, {}
    raw = {key: item for key, item in value.items() if key in _RAW_KEYS}
    return {key: item for key, item in value.items() if key not in raw}, raw
