"""What job specs and presets say about GPUs: alternatives, in order of preference.

    gpu_types: [{type: A100, count: 2}, {type: any, count: 4, memory: 16GB..24GB}]

A memory is each GPU's own, as it is sold ("24GB"): `24GB..` at least, `..40GB` at most, `16GB..24GB`; a size alone is
the least. Drivers show up to 8 % less than what is sold, so that much less still counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.fields import declared, read_record, record_schema
from airflow_jobdeploy.core.kinds import Number, Problems, Schema, Size, Text, expected
from airflow_jobdeploy.core.source import Item, described
from airflow_jobdeploy.core.words import size

GB = 1 << 30
#: Most GPUs that one job can ask of one host.
MAX_GPUS = 1024
#: A 24GB card shows 22.5 GiB, an 80GB one 79.3: error correction and firmware take their part.
_SHOWN_OF_SOLD = 0.92
_ANY = "any"
_SIZE = Size(GB)


@dataclass(frozen=True, kw_only=True)
class GpuWish:
    """So many GPUs of one kind."""

    #: "" for any.
    type: str = declared(Text(), "The GPU's type.", "")
    count: int = declared(Number(whole=True, minimum=1), "How many.", 1)
    #: As sold, both included; None: no limit.
    memory_bytes_min: int | None = declared(Size(), "The least memory of each.")
    memory_bytes_max: int | None = declared(Size(), "The most memory of each.")

    def to_wire(self) -> dict[str, Any]:
        """As hosts read it (hostside.fitting)."""
        least = None if self.memory_bytes_min is None else int(self.memory_bytes_min * _SHOWN_OF_SOLD)
        return {"type": self.type, "count": self.count, "memory_min": least, "memory_max": self.memory_bytes_max}

    def __str__(self) -> str:
        """ "2 A100", "1 GPU of 24.0 GiB or more"."""
        return f"{self.count} {self.type or ('GPU' if self.count == 1 else 'GPUs')}{self._range()}"

    def _range(self) -> str:
        least, most = self.memory_bytes_min, self.memory_bytes_max
        if least and most:
            return f" of {size(least)} to {size(most)}"
        return f" of {size(least)} or more" if least else f" of {size(most)} or less" if most else ""


def gpu_wishes(data: Any) -> tuple[GpuWish, ...]:
    """Of their JSON. TypeError for what is none."""
    return tuple(GpuWish(**wish) for wish in data or ())


@dataclass(frozen=True)
class SizeRange:
    """A size, `least..most`, `least..` or `..most`. Read as (least, most)."""

    def read(self, item: Item, problems: Problems) -> tuple[int | None, int | None] | None:
        if not isinstance(item.value, str) or ".." not in item.value:
            least = _SIZE.read(item, problems)
            return None if least is None else (least, None)
        parts = item.value.strip().split("..")
        before = len(problems)
        if len(parts) != 2 or not any(parts):
            expected(item, "a range like 16GB..24GB, 24GB.. or ..40GB", problems)
            return None
        first, last = (_SIZE.read(item.holding(part), problems) if part.strip() else None for part in parts)
        if first is not None and last is not None and first > last:
            problems.append(item.problem(f"{described(item.value)} ends before it begins."))
        return (first, last) if len(problems) == before else None

    def schema(self) -> Schema:
        one = r"[0-9]+([.][0-9]+)?\s*[kKmMgGtTpP]?[iI]?[bB]?"
        pattern = rf"^\s*({one}\s*([.][.]\s*({one})?)?|[.][.]\s*{one})\s*$"
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern}]}


@dataclass(frozen=True, kw_only=True)
class _Written:
    """One alternative as files have it."""

    type: str | None = declared(Text(), "The GPU's type, such as A100; `any`.")
    count: int = declared(Number(whole=True, minimum=0, maximum=MAX_GPUS), "How many.", 1)
    memory: tuple[int | None, int | None] | None = declared(
        SizeRange(), "The memory of each: the least, or a range (24GB.., ..40GB, 16GB..24GB); a number is GB."
    )


@dataclass(frozen=True)
class Gpus:
    """A list of {type, count, memory}; `name` is an older spelling of `type`. Entries with count 0 ask for nothing."""

    def read(self, item: Item, problems: Problems) -> tuple[GpuWish, ...] | None:
        if not isinstance(item.value, list):
            expected(item, "a list of {type, count}", problems)
            return None
        before = len(problems)
        found: list[GpuWish] = []
        for element in item.elements():
            wish = self._one(element, problems)
            if wish in found:
                hint = "The entries are alternatives: one of them is used, the first that can be had."
                problems.append(element.problem(f"{str(wish)!r} is given twice.", hint))
            found += [wish] if wish is not None else []
        return tuple(found) if len(problems) == before else None

    @staticmethod
    def _one(item: Item, problems: Problems) -> GpuWish | None:
        if isinstance(item.value, dict) and "name" in item.value and "type" not in item.value:
            renamed = {("type" if key == "name" else key): value for key, value in item.value.items()}
            item = item.holding(renamed)
        attributes = read_record(_Written, item, problems, what="a GPU")
        if isinstance(item.value, dict) and not {"type", "memory"} & set(attributes):
            if item.value.get("type") is None and item.value.get("memory") is None:
                problems.append(item.problem("a GPU needs 'type' or 'memory'.", "`type: any` takes any."))
            return None
        least, most = attributes.get("memory", (None, None))
        count = attributes.get("count", 1)
        kind = attributes.get("type", "")
        if not count:
            return None
        return GpuWish(
            type="" if kind.lower() == _ANY else kind, count=count, memory_bytes_min=least, memory_bytes_max=most
        )

    def schema(self) -> Schema:
        one = record_schema(_Written)
        one["properties"]["name"] = {"type": "string", "deprecated": True, "description": "Older spelling of type."}
        one["anyOf"] = [{"required": [name]} for name in ("type", "name", "memory")]
        return {"type": "array", "items": one}


GPUS = Gpus()
