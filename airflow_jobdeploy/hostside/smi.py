"""What nvidia-smi and rocm-smi print, as values. Pure: text in, `Seen` out; ValueError says why it cannot be read.

Neither is trusted to be whole: a field may be `[N/A]`, `[Not Supported]`, `[Unknown Error]` or missing, a warning may
stand between the lines. A line without a UUID and an index is no GPU.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

_MIB = 1024 * 1024


class Seen(NamedTuple):
    """`gpus`: {"index", "uuid", "model", "memory_bytes", "mig", "vendor"}, by index; `processes`: of each UUID,
    {"pid", "name", "memory_bytes"} of those that compute on it."""

    gpus: List[dict]
    driver: str
    processes: Dict[str, List[dict]]


class Reader(NamedTuple):
    """The questions for a tool (arguments of one call each), and how its answers are read: texts, exit codes."""

    questions: Tuple[Tuple[str, ...], ...]
    read: Callable[[Sequence[str], Sequence[int]], Seen]


# -- nvidia-smi: `nvidia-smi --help-query-gpu`. Texts that may hold a comma stand last. -------------------------------

_FORMAT = "--format=csv,noheader,nounits"
_NVIDIA = (
    ("--query-gpu=index,uuid,memory.total,driver_version,mig.mode.current,name", _FORMAT),  # drivers since 450
    ("--query-compute-apps=gpu_uuid,pid,used_memory,name", _FORMAT),
)


def _read_nvidia(texts: Sequence[str], codes: Sequence[int]) -> Seen:
    text, apps = texts
    if codes[0] == 6 or "No devices were found" in text:  # the driver is there, and has none
        return Seen([], "", {})
    if codes[0] != 0:
        raise ValueError(_last(text) or "exit status %d" % codes[0])
    rows = _rows(text, 6)
    gpus, drivers = [], []  # type: List[dict], List[str]
    for index, uuid, memory, driver, mig, model in rows:
        if not (index.isdigit() and _is_uuid(uuid)):
            continue
        mebibytes = _number(memory)
        drivers.append(_known(driver))
        gpus.append(
            {
                "index": int(index),
                "uuid": uuid,
                "model": _known(model),
                "memory_bytes": None if mebibytes is None else mebibytes * _MIB,
                "mig": mig == "Enabled",
                "vendor": "nvidia",
            }
        )
    if not gpus:
        raise ValueError("no line of it names a GPU: %s" % _last(text))
    gpus.sort(key=lambda gpu: int(gpu["index"]))
    return Seen(gpus, next(filter(None, drivers), ""), _nvidia_processes(apps if codes[1] == 0 else ""))


def _nvidia_processes(text: str) -> Dict[str, List[dict]]:
    found: Dict[str, List[dict]] = {}
    for uuid, pid, memory, name in _rows(text, 4):
        if _is_uuid(uuid) and pid.isdigit() and int(pid) > 0:
            mebibytes = _number(memory)
            held = None if mebibytes is None else mebibytes * _MIB
            entries = found.setdefault(uuid, [])
            if all(entry["pid"] != int(pid) for entry in entries):
                entries.append({"pid": int(pid), "name": _known(name), "memory_bytes": held})
    return found


def _rows(text: str, count: int) -> List[List[str]]:
    lines = (line.split(",", count - 1) for line in text.splitlines())
    return [[field.strip() for field in fields] for fields in lines if len(fields) == count]


def _is_uuid(text: str) -> bool:
    """GPU-5c3e..., of at most 48 characters: it becomes part of a socket's name."""
    body = text[4:]
    return text.startswith("GPU-") and 0 < len(body) <= 44 and body.replace("-", "").isalnum() and body.isascii()


def _known(text: str) -> str:
    """ "" for what nvidia-smi does not know: `[N/A]`, `N/A`, `[Not Supported]`, `[Unknown Error]`."""
    return "" if text.startswith("[") or text in ("N/A", "Unknown") else text[:120]


def _number(text: str) -> Optional[int]:
    return int(text) if text.isdigit() and len(text) < 12 else None


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


# -- rocm-smi: JSON, a key a card. Which process is on which card it does not say reliably: nobody is seen there. ------

_ROCM = (("--showid", "--showuniqueid", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json"),)


def _read_rocm(texts: Sequence[str], codes: Sequence[int]) -> Seen:
    begin = texts[0].find("{")  # warnings come before it
    try:
        cards: Any = json.loads(texts[0][begin:]) if begin >= 0 else None
    except (ValueError, RecursionError):
        cards = None
    if not isinstance(cards, dict):
        if codes[0] == 0 and not texts[0].strip():
            return Seen([], "", {})
        raise ValueError(_last(texts[0]) or "exit status %d" % codes[0])
    gpus = []
    for name, card in cards.items():
        if name.startswith("card") and name[4:].isdigit() and isinstance(card, dict):
            fields = {str(key).lower(): str(value).strip() for key, value in card.items()}
            uuid = "GPU-" + fields.get("unique id", "").lower().replace("0x", "", 1)
            if _is_uuid(uuid):
                gpus.append(_card(int(name[4:]), uuid, fields))
    system = cards.get("system")
    driver = str(system.get("Driver version", "")) if isinstance(system, dict) else ""
    return Seen(sorted(gpus, key=lambda gpu: int(gpu["index"])), _known(driver), {})


def _card(index: int, uuid: str, fields: Dict[str, str]) -> dict:
    names = (fields.get(key, "") for key in ("card series", "card model", "device name", "gfx version"))
    model = next((name for name in names if name and name != "N/A" and not name.startswith("0x")), "AMD GPU")
    memory = fields.get("vram total memory (b)", "")
    size = int(memory) if memory.isdigit() and len(memory) < 18 else None
    return {"index": index, "uuid": uuid, "model": model, "memory_bytes": size, "mig": False, "vendor": "amd"}


READERS = {"nvidia-smi": Reader(_NVIDIA, _read_nvidia), "rocm-smi": Reader(_ROCM, _read_rocm)}
