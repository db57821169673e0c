"""What job specs ask of containers, in the terms of a pool: short names, presets, GPUs, the words of dl_jobs."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_jobdeploy.core.containers import container_of, container_problems
from airflow_jobdeploy.core.demand import with_preset
from airflow_jobdeploy.core.engine_gpus import declared_gpus
from airflow_jobdeploy.core.pool import WorkerPool, load_pool
from airflow_jobdeploy.core.spec import JobSpec, load_spec
from airflow_jobdeploy.errors import PoolError, SpecError

PRESETS = {
    "small": {"cpu": 2, "memory": 4},
    "big": {"memory": "1GB", "gpu": 2, "preemptible": True},
    "a100": {"gpu_types": [{"type": "A100", "count": 1}]},
}
IMAGES = {"py36": "registry.example:5000/dl/py36:2", "py36_gpu": "registry.example:5000/dl/py36-gpu:2"}


def pool(*gpu_types: dict[str, Any], **facts: Any) -> WorkerPool:
    worker = {"url": "tcp://a.example:2376", **({"gpu_types": list(gpu_types)} if gpu_types else {})}
    return load_pool(
        {"kind": "docker", "workers": [worker], "images": IMAGES, "presets": PRESETS, "image": "box:1", **facts},
        name="engines",
    )


def spec(**fields: Any) -> JobSpec:
    return load_spec({"command": "x", **fields})


def asked(fields: dict[str, Any], of: WorkerPool | None = None) -> dict[str, Any]:
    of = of or pool()
    wanted = spec(**fields)
    assert container_problems(wanted, of, has_project=True) == []
    return container_of(with_preset(wanted, of), of)


def problem(fields: dict[str, Any], of: WorkerPool | None = None, *, has_project: bool = True) -> str:
    return "\n".join(str(found) for found in container_problems(spec(**fields), of or pool(), has_project=has_project))


def test_short_names_are_the_pools() -> None:
    assert asked({"docker_image": "py36"})["image"] == IMAGES["py36"]
    assert asked({"docker_image": "python:3.12"})["image"] == "python:3.12"
    assert asked({}, pool(image="py36"))["image"] == IMAGES["py36"]
    assert asked({"dockerfile": "Dockerfile"}, pool(image="py36")) == {"dockerfile": "Dockerfile"}


def test_a_job_without_an_image_in_a_pool_without_one() -> None:
    said = problem({}, pool(image=None))
    assert "the job names no image, and pool 'engines' has none. Give docker_image, or the pool an `image`." in said
    assert asked({"docker_image": "python:3.12"}, pool(image=None))["image"] == "python:3.12"
    assert asked({"dockerfile": "Dockerfile"}, pool(image=None)) == {"dockerfile": "Dockerfile"}


def test_a_short_name_of_dl_jobs_that_the_pool_does_not_have() -> None:
    assert "does not say which image 'py27_gpu' is. Did you mean 'py36_gpu'?" in problem({"docker_image": "py27_gpu"})
    assert "Add images: {py27: the image's name}" in problem({"docker_image": "py27"}, pool(images={}))


@pytest.mark.parametrize(
    ("fields", "image", "gpus", "said"),
    [
        ({"cpu_job": True}, "py36", None, ""),
        ({"cpu_job": True, "gpus": 2}, "py36", None, "(GPUs=2 and cpu_job=True) launching as CPU job"),
        ({"cpu_job": False, "gpus": 2}, "py36_gpu", 2, ""),
        ({"cpu_job": False, "gpus": 0}, "py36", None, "(GPUs=0 and cpu_job=False) launching as CPU job"),
        ({"cpu_job": False}, "py36", None, "(GPUs=0 and cpu_job=False) launching as CPU job"),
        ({"cpu_job": False, "gpus": None}, "py36", None, "(GPUs=0 and cpu_job=False) launching as CPU job"),
        ({"gpus": 1}, "py36_gpu", 1, ""),
        ({"gpus": 0}, "py36", None, ""),
        ({"cpu_job": "false", "gpus": "1"}, "py36_gpu", 1, ""),
    ],
)
def test_the_rule_of_dl_jobs(fields: dict[str, Any], image: str, gpus: int | None, said: str) -> None:
    fields = {"cpu_image": "py36", "gpu_image": "py36_gpu", **fields}
    found = asked(fields)
    assert (found["image"], found.get("gpus")) == (IMAGES[image], gpus)
    warnings = spec(**fields).warnings
    assert len(warnings) == bool(said)
    assert all(said in warning for warning in warnings)


def test_the_words_of_dl_jobs_over_each_other() -> None:
    base = {"command": "x", "cpu_job": False, "gpus": 1, "gpu_image": "py36_gpu", "cpu_image": "py36", "cpus": 4}
    assert load_spec(base).cpu_count == 4
    over = load_spec(base, overrides={"gpus": 0})
    assert (over.docker_image, over.gpu_types) == ("py36", ())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gpus": 1, "gpu_types": [{"type": "A100"}]}, "gpus and gpu_types are both given. Keep 'gpu_types'."),
        ({"cpus": 1, "cpu_count": 1}, "cpus and cpu_count are both given"),
        ({"cpu_image": "a", "docker_image": "b"}, "cpu_image and docker_image are both given"),
        ({"gpus": -1}, "-1 is less than 0"),
        ({"gpus": "many", "cpu_job": False}, "expected a whole number"),
        ({"cpu_job": "perhaps"}, "expected true or false"),
        ({"apt_packages": ["curl", "-oDir=x"]}, "'-oDir=x' is not the name of a Debian package"),
        ({"apt_packages": ["curl-"]}, "is not the name of a Debian package"),
        ({"apt_packages": ["a; rm -rf /"]}, "is not the name of a Debian package"),
        ({"dockerfile": "../Dockerfile"}, "leaves its folder"),
    ],
)
def test_what_is_no_spec(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match="<job_spec>") as caught:
        spec(**fields)
    assert said in str(caught.value)


def test_packages_as_apt_takes_them() -> None:
    names = ("libgl1", "g++", "curl=7.88.1-10+deb12u5", "libc6:i386", "nginx/bookworm-backports")
    assert asked({"apt_packages": [*names]})["apt_packages"] == [*names]


def test_a_dockerfile_needs_a_project_and_no_image() -> None:
    assert "there is no project" in problem({"dockerfile": "Dockerfile"}, has_project=False)
    assert "both given" in problem({"dockerfile": "Dockerfile", "docker_image": "python"})


def test_presets_fill_in_what_the_spec_does_not_say() -> None:
    assert asked({"preset": "small", "cpu_count": 8}) == {
        "image": "box:1",
        "cpu_count": 8,
        "memory_bytes": 4 << 30,
    }
    assert asked({"preset": "big"}) == {"image": "box:1", "memory_bytes": 1 << 30, "gpus": 2}
    assert with_preset(spec(preset="big"), pool()).preemptible
    assert not with_preset(spec(preset="big", preemptible=False), pool()).preemptible


def test_gpus_must_be_what_the_pool_says_that_it_has() -> None:
    a100 = {"type": "A100", "count": 2, "memory": "40GB"}
    assert asked({"gpu_types": [{"type": "any", "count": 3}]})["gpus"] == 3
    assert asked({"gpu_types": [{"type": "A100", "count": 2}]}, pool(a100))["gpus"] == 2
    alternatives = [{"type": "H100", "count": 1}, {"type": "A100", "count": 2}]
    assert asked({"gpu_types": alternatives}, pool(a100))["gpus"] == 2
    said = problem({"gpu_types": [{"type": "A100", "count": 3}]}, pool(a100))
    assert "no worker of pool 'engines' has 3 A100: tcp://a.example:2376 has 2 A100 of 40.0 GiB or more." in said
    assert "has 1 GPU of 80.0 GiB or more: " in problem({"gpu_types": [{"type": "any", "memory": "80GB"}]}, pool(a100))
    assert "Did you mean 'A100'?" in problem({"gpu_types": [{"type": "A10"}]}, pool(a100))


def test_engines_of_which_the_pool_says_nothing_are_asked_when_a_job_is_placed() -> None:
    assert asked({"preset": "a100"})["gpus"] == 1
    several = [
        {"url": "tcp://a:1", "gpu_types": [{"type": "T4"}]},
        {"url": "tcp://b:1", "gpu_types": [{"type": "H100"}]},
    ]
    assert asked({"gpu_types": [{"type": "H100"}]}, pool(workers=several))["gpus"] == 1
    said = problem({"gpu_types": [{"type": "A100"}]}, pool(workers=several))
    assert "has 1 A100: tcp://a:1 has 1 T4; tcp://b:1 has 1 H100." in said
    assert problem({"gpu_types": [{"type": "A100"}]}, pool(workers=[*several, {"url": "tcp://c:1"}])) == ""


@pytest.mark.parametrize(
    ("devices", "types", "expected"),
    [
        (
            ["/dev/nvidia1", "/dev/nvidia0", "/dev/nvidiactl"],
            [{"type": "A100", "count": 2, "memory": "80GB"}],
            [
                ("dev-nvidia0", "A100", 80 << 30, ("/dev/nvidia0", "/dev/nvidiactl")),
                ("dev-nvidia1", "A100", 80 << 30, ("/dev/nvidia1", "/dev/nvidiactl")),
            ],
        ),
        (
            ["/dev/kfd", "/dev/dri/card1", "/dev/dri/renderD129", "/dev/dri/renderD128"],
            [{"type": "MI300X"}],
            [
                ("dev-dri0", "MI300X", None, ("/dev/dri/renderD128", "/dev/kfd")),
                ("dev-dri1", "", None, ("/dev/dri/card1", "/dev/dri/renderD129", "/dev/kfd")),
            ],
        ),
        (["/dev/null:/dev/nvidia0"], [], [("dev-null", "", None, ("/dev/null:/dev/nvidia0",))]),
        (
            ["/dev/null:/dev/nvidia0"],
            [{"type": "A100", "count": 2}],
            [(f"dev-gpu{n}", "A100", None, ("/dev/null:/dev/nvidia0",)) for n in (0, 1)],
        ),
        (["/dev/kfd"], [], [("dev-gpu0", "", None, ("/dev/kfd",))]),
        ([], [{"type": "T4"}, {"type": "A100"}], [("0", "T4", None, None), ("1", "A100", None, None)]),
        ([], [], []),
    ],
)
def test_what_a_pool_declares_of_an_engines_gpus(devices: list[str], types: list[Any], expected: list[Any]) -> None:
    worker = load_pool({"kind": "docker", "workers": [{"url": "tcp://a:1", "devices": devices, "gpu_types": types}]})
    found = declared_gpus(worker.workers[0])
    assert [(gpu["uuid"], gpu["model"], gpu["memory_bytes"], gpu.get("devices")) for gpu in found] == expected


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"images": {"a b": "python"}}, "'a b' is not a short name"),
        ({"images": {"a": "Python"}}, "no capital letters"),
        ({"images": ["a"]}, "expected a mapping of short names to images"),
        ({"storage": {"root": "~/x"}}, "an engine has no home folder"),
        ({"storage": {}}, "needs 'root'"),
        ({"storage": {"root": "/a", "volume": "b"}}, "both given"),
        ({"storage": {"volume": "../b"}}, "does not match"),
        ({"kind": "ssh", "workers": [{"conn_id": "a"}], "storage": {"volume": "b"}}, "only a docker pool has volumes"),
        ({"kind": "ssh", "workers": [{"conn_id": "a"}]}, "only a docker pool has 'images'"),
        ({"workers": [{"url": "ssh://a", "devices": ["/etc/passwd"]}]}, "does not match"),
    ],
)
def test_what_is_no_pool(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(PoolError) as caught:
        pool(**facts)
    assert said in str(caught.value)
