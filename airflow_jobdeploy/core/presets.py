"""Presets of a pool: named amounts of resources, with Apolo's fields and ours; one may extend another.

    presets:
      small: {cpu: 4, memory: 16GB}
      gpu-small: {extends: small, nvidia_gpu: 1, gpu_model: A100}
      gpu-large: {extends: gpu-small, nvidia_gpu: {count: 4, memory: 80GB}, preemptible: true}

A field of the preset itself wins over that of the one it extends; what it says of GPUs in one way (`gpu_types`) wins
over what the other says in another (`nvidia_gpu`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.fields import Record, declared, read_fields, read_record, record_schema
from airflow_jobdeploy.core.gpus import GB, GPUS, MAX_GPUS, GpuWish, SizeRange
from airflow_jobdeploy.core.kinds import Flag, Number, Problems, Schema, Size, Text, as_number, expected
from airflow_jobdeploy.core.source import Item, suggestion


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named amount of resources, for jobs to ask for."""

    cpu: float | None = declared(Number(above=0), "CPU cores; may be fractional.")
    memory_bytes: int | None = declared(Size(GB), "Memory; a number is GB (2^30 bytes).")
    disk_space_bytes: int | None = declared(Size(GB), "Disk space; a number is GB (2^30 bytes).")
    gpu_types: tuple[GpuWish, ...] = declared(GPUS, "GPUs: alternatives, in order.", ())
    preemptible: bool = declared(Flag(), "Jobs of this preset may be stopped for others.", False)
    description: str | None = declared(Text(lines=True), "What it is for.")


@dataclass(frozen=True, kw_only=True)
class _Gpu:
    count: int = declared(Number(whole=True, minimum=0, maximum=MAX_GPUS), "How many.", 1)
    model: str | None = declared(Text(), "The model.")
    memory: tuple[int | None, int | None] | None = declared(SizeRange(), "The memory of each, or a range.")


_GPU = Record(_Gpu, "a preset's GPU")


@dataclass(frozen=True)
class _GpuCount:
    """So many, or {count, model, memory}. Read as a `_Gpu`."""

    def read(self, item: Item, problems: Problems) -> _Gpu | None:
        if isinstance(item.value, dict):
            return _GPU.read(item, problems)
        if as_number(item.value, whole=True) is None:
            expected(item, "a number of GPUs, or {count, model, memory}", problems)
            return None
        count = Number(whole=True, minimum=0, maximum=MAX_GPUS).read(item, problems)
        return None if count is None else _Gpu(count=count)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "integer", "minimum": 0}, _GPU.schema()]}


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A preset as written."""

    extends: str | None = declared(Text(), "Another preset of the pool, for all that is not said here.")
    cpu: float | None = declared(Number(above=0), "CPU cores; may be fractional.")
    memory_bytes: int | None = declared(Size(GB), "Memory; a number is GB (2^30 bytes).")
    memory_mb: int | None = declared(Number(whole=True, minimum=1), "Memory in MB (2^20 bytes), as Apolo's SDK has it.")
    disk_space_bytes: int | None = declared(Size(GB), "Disk space; a number is GB (2^30 bytes).")
    gpu_types: tuple[GpuWish, ...] | None = declared(
        GPUS, "GPUs: a list of {type, count, memory}: alternatives, in order."
    )
    gpu: _Gpu | None = declared(_GpuCount(), "GPUs of any maker: so many, or {count, model, memory}.")  # noqa: RUF009
    gpu_model: str | None = declared(Text(), "Their model.")
    nvidia_gpu: _Gpu | None = declared(_GpuCount(), "GPUs of NVIDIA: so many, or {count, model, memory}.")  # noqa: RUF009
    nvidia_gpu_model: str | None = declared(Text(), "Their model.")
    amd_gpu: _Gpu | None = declared(_GpuCount(), "GPUs of AMD: so many, or {count, model, memory}.")  # noqa: RUF009
    amd_gpu_model: str | None = declared(Text(), "Their model.")
    preemptible: bool | None = declared(Flag(), "Jobs of this preset may be stopped for others.")
    preemptible_node: bool | None = declared(Flag(), "Apolo's word for preemptible.")
    description: str | None = declared(Text(lines=True), "What it is for.")


#: What Apolo has and this release does not.
_ELSEWHERE = {
    "nvidia_migs": "Split GPUs (MIG) come in a later release.",
    "intel_gpu": "GPUs of NVIDIA and AMD can be asked for.",
    "tpu": "GPUs of NVIDIA and AMD can be asked for.",
    "scheduler_enabled": "Write preemptible: true; who has to wait is told by `priority`.",
    "credits_per_hour": "There are no credits here: leave it out, or say it in the description.",
}
_COUNTS = ("gpu", "nvidia_gpu", "amd_gpu")
_MODELS = tuple(f"{name}_model" for name in _COUNTS)
#: Fields that say one thing in two ways: where the extending preset uses one, what is inherited of the other goes.
_SAME = (("memory_bytes", "memory_mb"), ("preemptible", "preemptible_node"))


@dataclass(frozen=True)
class Presets:
    """A mapping of names to presets, all that they extend written out."""

    def read(self, item: Item, problems: Problems) -> dict[str, Preset] | None:
        if not isinstance(item.value, dict):
            expected(item, "a mapping of names", problems)
            return None
        before = len(problems)
        written = {name: self._one(child, problems) for name, child in item.fields()}
        places = dict(item.fields())
        found = {name: _preset(_extended(name, written, places, problems), places[name], problems) for name in written}
        return found if len(problems) == before else None

    @staticmethod
    def _one(item: Item, problems: Problems) -> dict[str, Any]:
        if not isinstance(item.value, dict):
            return read_record(_Written, item, problems, what="a preset")
        found = read_fields(_Written, dict(item.fields()), problems, what="a preset", hints=_ELSEWHERE)
        for twice in (*_SAME, ("gpu_types", *_COUNTS)):
            given = [name for name in twice if name in found]
            if len(given) > 1:
                names = " and ".join(name.removesuffix("_bytes") for name in given)
                problems.append(item.problem(f"{names} say the same thing.", "Keep one of them."))
        return found

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": record_schema(_Written)}


def _extended(
    name: str, written: Mapping[str, dict[str, Any]], places: Mapping[str, Item], problems: Problems
) -> dict[str, Any]:
    """The fields of a preset over those of all that it extends; of a circle nothing."""
    chain = [name]
    while (parent := written[chain[-1]].get("extends")) is not None:
        place = places[chain[-1]].child("extends")
        if parent not in written:
            hint = suggestion(parent, written) or f"There are {', '.join(written)}."
            if chain[0] == chain[-1]:  # said once, where it stands
                problems.append(place.problem(f"there is no preset {parent!r}.", hint))
            break
        if parent in chain:
            if parent == name == min(chain):  # each circle once
                circle = " -> ".join([*chain, parent])
                problems.append(place.problem(f"presets extend each other in a circle: {circle}."))
            return {}
        chain.append(parent)
    merged: dict[str, Any] = {}
    for each in reversed(chain):
        merged = _over(written[each], merged)
    return merged


def _over(own: Mapping[str, Any], inherited: Mapping[str, Any]) -> dict[str, Any]:
    left = dict(inherited)
    for same in _SAME:
        if any(field in own for field in same):
            left = {key: value for key, value in left.items() if key not in same}
    if "gpu_types" in own:
        left = {key: value for key, value in left.items() if key not in (*_COUNTS, *_MODELS)}
    elif any(field in own for field in _COUNTS):
        kept = [field for field in _COUNTS if field in own]
        dropped = {"gpu_types", *_COUNTS} - set(kept)
        _inherit_gpu(own, left, kept[0])
        left = {key: value for key, value in left.items() if key not in dropped}
    return {**left, **own}


def _inherit_gpu(own: Mapping[str, Any], left: dict[str, Any], field: str) -> None:
    """{gpu: 4} over {gpu: {count: 1, model: A100}} is four A100."""
    before: _Gpu | None = left.get(field)
    if before is not None and before.model is not None and own[field].model is None:
        left.setdefault(f"{field}_model", before.model)


def _preset(fields: Mapping[str, Any], item: Item, problems: Problems) -> Preset:
    memory = fields.get("memory_bytes")
    if memory is None and fields.get("memory_mb") is not None:
        memory = fields["memory_mb"] << 20
    preemptible = fields.get("preemptible", fields.get("preemptible_node", False))
    plain = {name: fields.get(name) for name in ("cpu", "disk_space_bytes", "description")}
    gpus = _gpus(fields, item, problems)
    return Preset(memory_bytes=memory, preemptible=preemptible, gpu_types=gpus, **plain)


def _gpus(fields: Mapping[str, Any], item: Item, problems: Problems) -> tuple[GpuWish, ...]:
    if "gpu_types" in fields:
        return tuple(fields["gpu_types"])
    name = next((name for name in _COUNTS if name in fields), None)
    models = [fields[model] for model in ("gpu_model", f"{name}_model") if model in fields]
    if name is None:
        lost = next((model for model in _MODELS if model in fields), None)
        if lost is not None:
            problems.append(item.problem(f"{lost} without {lost.removesuffix('_model')}.", "Say how many."))
        return ()
    gpu: _Gpu = fields[name]
    if not gpu.count:
        return ()
    maker = {"nvidia_gpu": "NVIDIA", "amd_gpu": "AMD"}.get(name, "")
    model = gpu.model or (models[-1] if models else "")
    kind = model if not maker or maker.lower() in model.lower() else f"{maker} {model}".strip()
    least, most = gpu.memory or (None, None)
    return (GpuWish(type=kind, count=gpu.count, memory_bytes_min=least, memory_bytes_max=most),)
