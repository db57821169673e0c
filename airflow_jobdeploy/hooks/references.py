"""Secrets by reference: `conn:<id>.<field>` and `var:<key>`, read when a job is submitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_jobdeploy.errors import JobDeployError, nearest
from airflow_jobdeploy.hooks import runtime

_FIELDS = ("password", "login", "host", "schema", "port")
_OF_A_PROGRAM = "this program is no task, so Airflow shows it nothing of its database: set {name} in its environment"
_FORMS = "expected conn:<id>.password (or login, host, schema, port, extra.<key>) or var:<key>"


def resolve_secret(reference: str) -> str:
    """The value that a reference names, masked in this process' logs. JobDeployError says what is missing."""
    kind, _, rest = reference.partition(":")
    readers: dict[str, Callable[[str, str], str]] = {"conn": _connection_field, "var": _variable}
    reader = readers.get(kind)
    if reader is None or not rest:
        raise JobDeployError(f"{reference!r} is no reference to a secret: {_FORMS}")
    value = reader(rest, reference)
    runtime.mask(value)
    return value


def _variable(key: str, reference: str) -> str:
    from airflow.sdk import Variable

    with runtime.lookup():
        value = Variable.get(key, default=None)
    if value is None:
        where = "add it under Admin, Variables"
        if runtime.is_a_program():
            where = _OF_A_PROGRAM.format(name=f"AIRFLOW_VAR_{key.upper()}='...'")
        raise JobDeployError(f"{reference}: there is no Airflow Variable {key!r}; {where}")
    return str(value)


def _connection_field(rest: str, reference: str) -> str:
    conn_id, field, key = _split(rest)
    connection = get_connection(conn_id, reference)
    if field == "extra":
        extra = connection.extra_dejson
        if key not in extra:
            raise JobDeployError(
                f"{reference}: the extra of connection {conn_id!r} has no {key!r}.{nearest(key, extra)}"
            )
        value = extra[key]
    elif field in _FIELDS:
        value = getattr(connection, field)
    else:
        raise JobDeployError(f"{reference}: {field!r} is no field of a connection: {_FORMS}.{nearest(field, _FIELDS)}")
    if value is None or value == "":
        raise JobDeployError(f"{reference}: connection {conn_id!r} has no {field}")
    return str(value)


def _split(rest: str) -> tuple[str, str, str]:
    """`<id>.password` or `<id>.extra.<key>`; connection ids may hold dots themselves."""
    conn_id, _, key = rest.partition(".extra.")
    if key:
        return conn_id, "extra", key
    conn_id, _, field = rest.rpartition(".")
    return conn_id, field, ""


def where_to_add(conn_id: str, like: str = '{"conn_type": "...", "host": "..."}') -> str:
    """What to do about a connection that is not there. `like`: how such a one is written."""
    if not runtime.is_a_program():
        return "add it under Admin, Connections"
    return _OF_A_PROGRAM.format(name=f"AIRFLOW_CONN_{conn_id.upper()}='{like}'")


def get_connection(conn_id: str, wanted_by: str) -> Any:
    """An Airflow connection, or a JobDeployError that says who wanted it."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError

    try:
        with runtime.lookup():
            return BaseHook.get_connection(conn_id)
    except (AirflowNotFoundException, AirflowRuntimeError) as error:
        raise JobDeployError(
            f"{wanted_by}: there is no Airflow connection {conn_id!r}; {where_to_add(conn_id)} ({error})"
        ) from error
