"""The words of dl_jobs for where a job runs, in a job spec: an image for each kind of machine, and which kind it is.

    cpu_job: false        runs on GPUs, unless gpus is 0; true: never on GPUs
    gpus: 1
    cpus: 4
    cpu_image: py36       -> docker_image
    gpu_image: py36_gpu

The rule is that of dl_jobs: `cpu_job` wins over `gpus`, and no GPUs mean the CPU image; each with a warning.
"""

from __future__ import annotations

from airflow_jobdeploy.core.kinds import Flag, Number, Problems
from airflow_jobdeploy.core.source import Item

#: Each with what it says.
WORDS = {
    "cpu_job": "dl_jobs: run on a CPU image, without GPUs; false: on GPUs, unless gpus is 0.",
    "cpu_image": "dl_jobs: docker_image of a job without GPUs.",
    "gpu_image": "dl_jobs: docker_image of a job with GPUs.",
    "cpus": "dl_jobs: cpu_count.",
    "gpus": "dl_jobs: how many GPUs, of whichever type.",
}
#: What they become.
_FIELDS = {"cpu_image": "docker_image", "gpu_image": "docker_image", "cpus": "cpu_count", "gpus": "gpu_types"}


def translate(fields: dict[str, Item], problems: Problems, warnings: list[str]) -> None:
    """Replace the words in a spec's fields (all layers merged) by the fields that they mean."""
    words = {name: fields.pop(name) for name in WORDS if name in fields}
    given = {name: item for name, item in words.items() if item.value is not None}
    for name, field in _FIELDS.items():
        if name in given and field in fields and fields[field].value is not None:
            problems.append(given[name].problem(f"{name} and {field} are both given.", f"Keep {field!r}."))
            return
    gpus = _gpus(given, problems, warnings)
    image = given.get("gpu_image" if gpus else "cpu_image")
    if image is not None:
        fields["docker_image"] = image
    if "cpus" in given:
        fields["cpu_count"] = given["cpus"]
    if gpus:
        at = given.get("gpus") or given["cpu_job"]
        fields["gpu_types"] = at.holding([{"type": "any", "count": gpus}])


def _gpus(given: dict[str, Item], problems: Problems, warnings: list[str]) -> int:
    """How many the job gets."""
    before = len(problems)
    gpus = Number(whole=True, minimum=0).read(given["gpus"], problems) if "gpus" in given else 0
    if "cpu_job" not in given:
        return int(gpus or 0)
    cpu_job = Flag().read(given["cpu_job"], problems)
    if len(problems) > before:
        return 0
    if cpu_job and gpus:
        warnings.append(f"{given['gpus'].where}: (GPUs={gpus} and cpu_job=True) launching as CPU job, without GPUs.")
        return 0
    if not cpu_job and not gpus:
        warnings.append(f"{given['cpu_job'].where}: (GPUs=0 and cpu_job=False) launching as CPU job.")
    return int(gpus or 0)
