"""What jobs ask of workers: GPUs, presets, labels, quotas; and what pools say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.core.capacity import Quota, allowance
from airflow_jobdeploy.core.demand import Demand, demand_of, with_preset
from airflow_jobdeploy.core.gpus import GB, GpuWish
from airflow_jobdeploy.core.labels import mismatch
from airflow_jobdeploy.core.pool import WorkerPool, load_pool
from airflow_jobdeploy.core.spec import JobSpec, load_spec
from airflow_jobdeploy.errors import PoolError, SpecError
from airflow_jobdeploy.hostside import fitting


def pool(**fields: Any) -> WorkerPool:
    return load_pool({"kind": "ssh", "workers": [{"conn_id": "a"}], **fields}, name="lab")


def spec(**fields: Any) -> JobSpec:
    return load_spec({"command": "x", **fields})


def wishes(*written: Any) -> tuple[GpuWish, ...]:
    return spec(gpu_types=list(written)).gpu_types


# -- GPUs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "least", "most"),
    [
        (24, 24 * GB, None),
        ("24GB", 24 * GB, None),
        ("24GB..", 24 * GB, None),
        ("..40GB", None, 40 * GB),
        ("16GB..24GB", 16 * GB, 24 * GB),
        (" 16 GB .. 24 GiB ", 16 * GB, 24 * GB),
        ("16..24", 16 * GB, 24 * GB),
        ("512MB..1GB", GB // 2, GB),
    ],
)
def test_memory_of_gpus(written: Any, least: int | None, most: int | None) -> None:
    (found,) = wishes({"type": "any", "memory": written})
    assert found == GpuWish(type="", memory_bytes_min=least, memory_bytes_max=most)


@pytest.mark.parametrize(
    "written", ["..", "a..b", "24GB..16GB", "1..2..3", "1...2", "-1..", "nan..", "0..", "", [], True, -3]
)
def test_what_is_no_memory_of_gpus(written: Any) -> None:
    with pytest.raises(SpecError) as caught:
        wishes({"type": "A100", "memory": written})
    assert "gpu_types[0].memory" in str(caught.value)


def test_gpus_are_alternatives_in_order() -> None:
    found = wishes({"type": "H100"}, {"type": "A100", "count": 2}, {"type": "A100"}, {"memory": "24GB.."})
    assert [str(wish) for wish in found] == ["1 H100", "2 A100", "1 A100", "1 GPU of 24.0 GiB or more"]
    with pytest.raises(SpecError, match=r"given twice.*alternatives"):
        wishes({"type": "A100"}, {"type": "A100", "count": 1})


@pytest.mark.parametrize(
    ("shown_mib", "sold"),
    [(23028, "24GB"), (46068, "48GB"), (15360, "16GB"), (81559, "80GB"), (143771, "141GB"), (24564, "24GB")],
)
def test_a_gpu_counts_as_what_it_is_sold_as(shown_mib: int, sold: str) -> None:
    gpu = fitting.Gpu("u", 0, "NVIDIA X", shown_mib << 20)
    for memory in (sold, f"{sold}..", f"..{sold}", f"{sold}..{sold}"):
        (wish,) = wishes({"type": "any", "memory": memory})
        read = fitting.read_demand(Demand(gpus=(wish,)).to_wire())
        assert read is not None
        assert read.wishes[0].takes(gpu), memory
    (more,) = wishes({"type": "any", "memory": int(sold[:-2]) * 2})
    read = fitting.read_demand(Demand(gpus=(more,)).to_wire())
    assert read is not None
    assert not read.wishes[0].takes(gpu)


# -- presets -----------------------------------------------------------------------------------------------------------


def test_presets_extend_presets(write: Callable[..., None]) -> None:
    write(
        lab="""\
kind: ssh
workers: [{conn_id: a}]
presets:
  large: {extends: medium, nvidia_gpu: {count: 4, memory: 80GB}, preemptible_node: true}
  medium: {extends: small, nvidia_gpu: 1, nvidia_gpu_model: A100, description: one A100}
  small: {cpu: 4, memory: 16GB}
  other: {extends: large, gpu_types: [{type: T4}], memory_mb: 512, preemptible: false}
  none: {extends: large, gpu: 0}
"""
    )
    found = load_pool("lab.yaml").presets
    assert found["medium"].gpu_types == (GpuWish(type="NVIDIA A100"),)
    assert found["large"].gpu_types == (GpuWish(type="NVIDIA A100", count=4, memory_bytes_min=80 * GB),)
    assert (found["large"].cpu, found["large"].memory_bytes, found["large"].preemptible) == (4, 16 * GB, True)
    assert found["large"].description == "one A100"
    assert (found["other"].gpu_types, found["other"].memory_bytes) == ((GpuWish(type="T4"),), 512 << 20)
    assert not found["other"].preemptible
    assert found["none"].gpu_types == ()


def test_models_of_presets_in_presets_are_kept() -> None:
    found = pool(presets={"a": {"gpu": {"count": 1, "model": "A100"}}, "b": {"extends": "a", "gpu": 4}}).presets
    assert found["b"].gpu_types == (GpuWish(type="A100", count=4),)


@pytest.mark.parametrize(
    ("presets", "said"),
    [
        ({"a": {"extends": "b"}, "b": {"extends": "c"}, "c": {"extends": "b"}}, "in a circle: b -> c -> b"),
        ({"a": {"extends": "a"}}, "in a circle: a -> a"),
        ({"small": {"cpu": 1}, "a": {"extends": "smal"}}, "there is no preset 'smal'. Did you mean 'small'?"),
        ({"a": {"gpu": 1, "nvidia_gpu": 1}}, "gpu and nvidia_gpu say the same thing"),
        ({"a": {"memory": 1, "memory_mb": 1}}, "memory and memory_mb say the same thing"),
        ({"a": {"gpu_model": "A100"}}, "gpu_model without gpu"),
        ({"a": {"gpu": -1}}, "-1 is less than 0"),
        ({"a": {"gpu": "many"}}, "expected a number of GPUs"),
        ({"a": {"nvidia_migs": {}}}, "Split GPUs (MIG) come in a later release"),
        ({"a": {"cpus": 1}}, "Did you mean 'cpu'?"),
        ({"a": 3}, "expected a mapping (a preset)"),
        ([], "expected a mapping of names"),
    ],
)
def test_wrong_presets(presets: Any, said: str) -> None:
    with pytest.raises(PoolError) as caught:
        pool(presets=presets)
    assert said in str(caught.value)
    assert str(caught.value).count(said) == 1


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcdef"), min_size=1))
def test_presets_that_extend_each_other_anyhow_are_read_or_refused(extends: dict[str, str]) -> None:
    presets: dict[str, Any] = {name: {"extends": parent} for name, parent in extends.items()}
    for name in set(extends.values()) - set(extends):
        presets[name] = {"cpu": 3}
    ends = {name: name for name in presets}
    for _ in presets:
        ends = {name: extends.get(end, end) for name, end in ends.items()}
    if any(end in extends for end in ends.values()):
        with pytest.raises(PoolError, match="in a circle"):
            pool(presets=presets)
    else:
        assert all(preset.cpu == 3 for preset in pool(presets=presets).presets.values())


# -- demands -----------------------------------------------------------------------------------------------------------


def test_a_demand_is_the_specs_own_over_its_presets() -> None:
    lab = pool(presets={"big": {"cpu": 8, "memory": 64, "gpu": 2, "gpu_model": "A100", "preemptible": True}})
    assert str(demand_of(spec(preset="big"), lab)) == "2 A100, 8 cores, 64.0 GiB memory"
    own = spec(preset="big", cpu_count=0.5, gpu_types=[{"type": "T4"}], disk_space=10)
    assert str(demand_of(own, lab)) == "1 T4, 0.5 cores, 64.0 GiB memory, 10.0 GiB disk"
    assert demand_of(spec(preset="big", gpu_types=[]), lab).gpus == ()
    assert with_preset(spec(preset="big"), lab).preemptible
    assert not with_preset(spec(preset="big", preemptible=False), lab).preemptible
    assert not demand_of(spec(), lab)
    assert str(demand_of(spec(), lab)) == "nothing in particular"


def test_demands_survive_json_and_fields_of_newer_releases() -> None:
    found = demand_of(spec(gpu_types=[{"type": "A100", "count": 2, "memory": "..40GB"}], cpu_count=0.5), pool())
    data = json.loads(json.dumps({**found.to_dict(), "from_the_future": 1}))
    assert Demand.from_dict(data) == found
    read = fitting.read_demand(json.loads(json.dumps(found.to_wire())))
    assert read is not None
    assert (read.cpu, read.wishes[0].many) == (0.5, 2)


def test_an_unknown_preset_says_what_there_is() -> None:
    with pytest.raises(SpecError) as caught:
        demand_of(spec(preset="smal"), pool(presets={"small": {"cpu": 1}, "large": {"cpu": 9}}))
    assert "worker pool 'lab' (<connection lab>) has no preset 'smal'." in str(caught.value)
    assert "Did you mean 'small'? It has small, large." in str(caught.value)
    with pytest.raises(SpecError, match="It has none"):
        demand_of(spec(preset="x"), pool())


# -- labels ------------------------------------------------------------------------------------------------------------

LABELLED = [
    {"conn_id": "a", "labels": {"zone": "a", "disk": "nvme", "rack": 7}},
    {"conn_id": "b", "labels": {"zone": "b"}},
    {"conn_id": "c", "hosts": "gpu[1-2]", "labels": {"zone": "c", "disk": "ssd"}, "capacity": {"gpus": [0, "GPU-x"]}},
]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ({"zone": "a"}, ["a"]),
        ({"zone": ["a", "b"]}, ["a", "b"]),
        ({"zone": ["a", "c"], "disk": "ssd"}, ["gpu1", "gpu2"]),
        ({"rack": 7}, ["a"]),
        ({"worker": "gpu2"}, ["gpu2"]),
        ({}, ["a", "b", "gpu1", "gpu2"]),
    ],
)
def test_where(where: dict[str, Any], names: list[str]) -> None:
    lab = pool(workers=LABELLED)
    asked = spec(where=where)
    demand_of(asked, lab)
    assert [worker.name for worker in lab.workers if not mismatch(asked.where, worker.all_labels)] == names
    assert JobSpec.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"zon": "a"}, "no worker of pool 'lab' has a label 'zon'. Did you mean 'zone'?"),
        ({"zone": "d"}, "no worker of pool 'lab' has zone: d."),
        ({"disk": "nvm"}, "Did you mean 'nvme'? Known: nvme, ssd."),
        ({"zone": "a", "disk": "ssd"}, "has all of these labels together"),
    ],
)
def test_where_nothing_is(where: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        demand_of(spec(where=where), pool(workers=LABELLED))
    assert said in str(caught.value)


@pytest.mark.parametrize("where", ["a", ["a"], {"zone": []}, {"zone": {}}, {"": "a"}, {"a b": "c"}, {"zone": ""}])
def test_what_is_no_where(where: Any) -> None:
    with pytest.raises(SpecError, match="where"):
        spec(where=where)


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        ({"labels": {"worker": "x"}}, "'worker' is the worker's own name"),
        ({"labels": {"zone": None}}, "expected text"),
        ({"labels": ["a"]}, "expected a mapping of labels"),
        ({"labels": {"a\nb": "c"}}, "is not a label's name"),
        ({"capacity": {"cpu": 0}}, "0 is not more than 0"),
        ({"capacity": {"gpus": [0, "0"]}}, "GPU 0 is given twice"),
        ({"capacity": {"gpus": 2}}, "expected a list of GPUs"),
        ({"capacity": {"gpu": [0]}}, "Did you mean 'gpus'?"),
    ],
)
def test_wrong_workers(worker: dict[str, Any], said: str) -> None:
    with pytest.raises(PoolError) as caught:
        pool(workers=[{"conn_id": "a", **worker}])
    assert said in str(caught.value)


def test_declared_capacities_narrow_what_hosts_show() -> None:
    lab = pool(workers=[{"conn_id": "a", "capacity": {"cpu": 4, "memory": 8, "gpus": [1]}}])
    assert lab.workers[0].capacity is not None
    shown = {"cpu": 64, "memory": 512 * GB, "gpus": [{"index": i, "uuid": f"G{i}", "model": "T4"} for i in range(4)]}
    found = fitting.narrowed(fitting.read_limits(shown), lab.workers[0].capacity.to_wire())
    assert found is not None
    assert (found.cpu, found.memory, [gpu.uuid for gpu in found.gpus]) == (4, 8 * GB, ["G1"])
    local = load_pool({"kind": "local", "workers": [{"labels": {"a": "b"}, "capacity": {"cpu": 1}}]})
    assert local.workers[0].all_labels == {"a": "b", "worker": "local"}
    assert local.workers[0].capacity is not None


def test_a_default_preset_is_one_of_the_pools() -> None:
    presets = {"small": {"cpu": 2, "memory": "1GB"}}
    lab = pool(presets=presets, default_preset="small")
    assert demand_of(load_spec({"command": "x"}), lab) == Demand(cpu_count=2, memory_bytes=GB)
    assert demand_of(load_spec({"command": "x", "cpu_count": 5}), lab).cpu_count == 5
    with pytest.raises(PoolError, match=r"default_preset: the pool has no preset 'smal'\. Did you mean 'small'\?"):
        pool(presets=presets, default_preset="smal")


# -- quotas ------------------------------------------------------------------------------------------------------------


def test_quotas_of_owners_teams_and_others() -> None:
    quotas = pool(
        quotas={"ada": {"max_gpus": 4}, "vision": {"max_gpus": 8, "max_priority": "low"}, "*": {"max_gpus": 1}}
    ).quotas
    assert quotas["ada"] == Quota(max_gpus=4)
    both = allowance(quotas, owner="ada", team="vision")
    assert (both.max_gpus, both.team_max_gpus, both.priority("high")) == (4, 8, "low")
    team = allowance(quotas, owner="bob", team="vision")
    assert (team.owner, team.max_gpus, team.team_max_gpus, team.priority(None)) == ("bob", None, 8, "low")
    assert [str(count) for count in both.counts("d")] == ["its owner ada", "its team vision"]
    other = allowance(quotas, owner="eve", team="nobody")
    assert (other.owner, other.max_gpus, other.team_max_gpus, other.priority("high")) == ("eve", 1, None, "high")
    assert allowance(quotas, owner="*").max_gpus == 1
    assert allowance({}, owner="eve", team="t").counts("d") == ()
    assert allowance({"a": Quota(max_priority="normal")}, owner="a").priority("low") == "low"


@pytest.mark.parametrize(
    ("quotas", "said"),
    [
        ({"a": {"max_gpu": 1}}, "Did you mean 'max_gpus'?"),
        ({"a": {"max_gpus": -1}}, "-1 is less than 0"),
        ({"a": {"max_priority": "urgent"}}, "is none of high, normal, low"),
        ([], "expected a mapping"),
    ],
)
def test_wrong_quotas(quotas: Any, said: str) -> None:
    with pytest.raises(PoolError) as caught:
        pool(quotas=quotas)
    assert said in str(caught.value)
