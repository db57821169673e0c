"""What a Docker engine has to give out: its GPUs, seen by a container that looks; and whether it takes new jobs."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.backends.engine import names, probe
from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.devices import gpus_of
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.backends.engine.stock import Stock
from airflow_jobdeploy.core.leases import Ticket, lease_of
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.core.status import JobStatus, Reason
from tests.backends.engines import backend_of, job, left, run
from tests.servers.dockerd import BARE_IMAGE, IMAGE, Dockerd
from tests.servers.dockerd import dockerd as dockerd
from tests.servers.nvidia import EngineGpus, equipped

pytestmark = pytest.mark.docker

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
DECLARED = {"index": 0, "uuid": "0", "model": "A100", "memory_bytes": 80 << 30, "mig": False, "vendor": "nvidia"}
_WAIT_S = 30.0


@pytest.fixture(scope="module")
def gpu_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dockerd, EngineGpus]]:
    with equipped(tmp_path_factory.mktemp("gpus") / "of the 'engine'") as found:
        yield found


@pytest.fixture
def lab(gpu_engine: tuple[Dockerd, EngineGpus]) -> Iterator[tuple[Dockerd, EngineGpus]]:
    engine, gpus = gpu_engine
    yield engine, gpus
    gpus.fail("")
    gpus.__post_init__()
    engine.wipe()


def stock_of(engine: Dockerd, **settings: Any) -> Stock:
    client = Engine(worker="engine", connect=engine.client)
    places = Places(client)
    places.set_clock(str(client.get("/info")["SystemTime"]))
    return Stock(client, places, Settings(**{"image": IMAGE, **settings}))


def seen(stock: Stock) -> dict[str, Any]:
    """What it has, once that is known."""
    stock.look(_WAIT_S)
    return stock.capacity()


def test_an_engines_gpus_are_seen_by_a_container_that_looks(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, gpus = lab
    stock, before = stock_of(engine), len(gpus.given)
    assert stock.capacity()["gpus"] == []  # nobody waits, nor looks, who does not ask
    assert len(gpus.given) == before
    assert "not been looked at yet" in stock.trouble
    found = seen(stock)
    sizes = {"memory_bytes": gpus.memory_mib << 20, "mig": False, "vendor": "nvidia"}
    assert found["gpus"] == [
        {"index": index, "uuid": uuid, "model": "NVIDIA H200", **sizes} for index, uuid in enumerate(gpus.uuids)
    ]
    assert (found["driver"], stock.trouble) == ("570.00", "")
    assert min(found["cpu"], found["memory"]) > 0
    assert left(engine) == []
    facts = backend_of(engine).facts()
    assert [gpu["uuid"] for gpu in facts.gpus] == gpus.uuids
    assert (facts.driver, facts.extra["boot_id"], facts.warnings) == ("570.00", BOOT, facts.warnings)
    looks = len(gpus.given)
    assert seen(stock_of(engine))["gpus"] == found["gpus"]
    assert len(gpus.given) == looks, "one look serves all clients"


def test_clients_that_come_at_once_look_once(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, gpus = lab
    looks = len(gpus.given)
    stocks = [stock_of(engine) for _ in range(4)]
    threads = [threading.Thread(target=stock.look, args=(_WAIT_S,)) for stock in stocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(stock.capacity()["gpus"]) for stock in stocks] == [2] * 4
    assert 1 <= len(gpus.given) - looks < len(stocks), "who comes when another has just ended may look again"
    assert left(engine) == []


def test_what_the_tool_does_not_know_and_split_gpus(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, gpus = lab
    first, second = gpus.uuids
    gpus.say_gpus(f"0, {first}, [N/A], [N/A], Enabled, [Unknown Error]\n1, {second}, 81920, 570.00, [N/A], A100, SXM\n")
    declared = ({**DECLARED, "memory_bytes": 40 << 30},)
    found = seen(stock_of(engine, gpus=declared))["gpus"]
    assert [(gpu["model"], gpu["memory_bytes"], gpu["mig"]) for gpu in found] == [
        ("", None, True),
        ("A100, SXM", 80 << 30, False),
    ]


def test_a_driver_that_fails_is_told_and_the_gpus_are_not_given_out(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, gpus = lab
    gpus.fail("Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.\n")
    stock = stock_of(engine)
    assert seen(stock)["gpus"] == []
    assert stock.trouble == "nvidia-smi: Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost."
    assert backend_of(engine).facts().warnings[-1] == f"GPUs are not known: {stock.trouble}"


def test_without_a_driver_for_containers_there_are_none(dockerd: Dockerd) -> None:
    stock = stock_of(dockerd, gpus=(DECLARED,))
    assert (seen(stock)["gpus"], stock.trouble) == ([], "")
    plain, declared = backend_of(dockerd), backend_of(dockerd, gpus=(DECLARED,))
    assert plain.facts().extra["boot_id"] == BOOT
    assert not any("GPU" in text for text in plain.facts().warnings)
    assert "the pool declares 1 GPU, the engine gives none to containers" in declared.facts().warnings[-1]
    dockerd.wipe()


def test_declared_devices_are_the_gpus_of_an_engine_without_a_runtime(dockerd: Dockerd) -> None:
    declared = ({**DECLARED, "devices": ("/dev/null",)},)
    stock = stock_of(dockerd, gpus=declared)
    assert stock.capacity()["gpus"] == [dict(declared[0])]
    assert (seen(stock)["gpus"], stock.trouble) == ([dict(declared[0])], "")
    dockerd.wipe()


def test_a_gpu_has_one_name_in_all_pools_of_its_engine(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, gpus = lab
    device = {**DECLARED, "index": 1, "uuid": "dev-nvidia1", "devices": ("/dev/null:/dev/nvidia1",)}
    declares, asks = stock_of(engine, gpus=(device,)), stock_of(engine)
    assert [gpu["uuid"] for gpu in declares.capacity()["gpus"]] == ["dev-nvidia1"]
    engine.client().create_container(IMAGE, ["true"], name="jobdeploy-gpu-dev-nvidia1")  # as a lease does
    assert seen(asks)["gpus"] == []
    assert "a job holds one under the name 'dev-nvidia1', by what its pool declares" in asks.trouble
    engine.client().remove_container("jobdeploy-gpu-dev-nvidia1")
    asks.doubt("unknown device")
    assert len(seen(asks)["gpus"]) == 2
    assert declares.capacity()["gpus"] == [{**device, "uuid": gpus.uuids[1]}]


def test_without_an_image_with_a_shell_what_is_declared_counts(tmp_path: Path) -> None:
    with equipped(tmp_path / "gpus") as (engine, _):
        engine.client().remove_image(IMAGE)
        engine.add_bare_image()
        stock = stock_of(engine, image=BARE_IMAGE)
        assert seen(stock)["gpus"] == []
        assert "no image with a shell on the engine" in stock.trouble
        assert "pool's `image`" in stock.trouble
        told = stock_of(engine, image=BARE_IMAGE, gpus=(DECLARED,))
        assert (told.capacity()["gpus"], told.trouble) == ([DECLARED], "")
        assert left(engine) == []


def test_what_a_killed_look_left_is_in_nobodys_way_for_long(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, _ = lab
    client = Engine(worker="engine", connect=engine.client)
    places = Places(client)
    places.set_clock(str(client.get("/info")["SystemTime"]))
    engine.client().create_container(IMAGE, ["true"], name=names.LOOK_NAME)
    with pytest.raises(probe.Busy):
        probe.look(client, places, [IMAGE])
    places.set_clock("2099-01-01T00:00:00Z")
    assert len(probe.look(client, places, [IMAGE]).gpus) == 2


def test_a_tool_that_hangs_is_killed(tmp_path: Path) -> None:
    hung = tmp_path / "hung"
    hung.write_text("#!/bin/sh\nexec sleep 1000\n")
    hung.chmod(0o755)
    program = Path(probe.__file__).with_name("probe.sh")
    begun = time.monotonic()
    answer = subprocess.run(["sh", program, "1", str(hung), "echo b"], capture_output=True, text=True, timeout=30)
    assert time.monotonic() - begun < 10
    assert "is its driver hung?" in answer.stdout
    assert "\njobdeploy-status 137\nb\n\njobdeploy-status 0\n" in answer.stdout


def test_the_kernels_own_list_is_read_where_the_tool_does_not_run() -> None:
    listed = """jobdeploy-boot 8b6b4513-3a7c-45ea-9d29-1830361714a0

sh: nvidia-smi: not found

jobdeploy-status 127
sh: nvidia-smi: not found

jobdeploy-status 127
Model: \t\t NVIDIA A100-SXM4-80GB
IRQ:   \t\t 195
GPU UUID: \t GPU-5c3e8d8c-1111-2222-3333-444455556666
Bus Location: \t 0000:0a:00.0
Device Minor: \t 1

Model: \t\t NVIDIA A100-SXM4-80GB
GPU UUID: \t GPU-????????-????-????-????-????????????
Device Minor: \t 0

"""
    found = probe.read(listed, "alpine", has_driver=True)
    (gpu,) = found.gpus
    assert (gpu["index"], gpu["uuid"], gpu["memory_bytes"]) == (1, "GPU-5c3e8d8c-1111-2222-3333-444455556666", None)
    assert (found.boot[:8], found.why) == ("8b6b4513", "")
    assert "install the NVIDIA container toolkit" in probe.read(listed, "alpine", has_driver=False).why
    none = probe.read(listed.partition("Model")[0], "alpine", has_driver=True)
    assert none.why.startswith("nvidia-smi does not run in image alpine")


def test_a_gpu_that_cannot_be_had_any_more_is_looked_for_anew(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, gpus = lab
    backend = backend_of(engine)
    assert len(backend.room().capacity["gpus"]) == 2
    first, lost = gpus.uuids
    gpus.say_gpus(f"0, {first}, 81920, 570.00, Disabled, NVIDIA H200\n")
    ticket = Ticket(uid=new_uid(), demand={"gpus": [{"count": 2}]})
    answer = backend.seek(ticket)
    if answer.lease is None:
        answer = backend.granted(30.0)[ticket.uid]
    state = run(backend, job("true", uid=ticket.uid, lease=lease_of(ticket, answer.lease)))
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert f"{lost}: unknown device" in state.message
    assert [gpu["uuid"] for gpu in backend.room().capacity["gpus"]] == [first]
    backend.close()


# -- cordon -----------------------------------------------------------------------------------------------------------


def test_a_cordon_outlives_the_engine_and_is_one_whoever_gives_it(lab: tuple[Dockerd, EngineGpus]) -> None:
    engine, _ = lab
    stocks = [stock_of(engine) for _ in range(4)]
    texts = [f"reason {number}\n\x1b[31m" for number in range(4)]
    threads = [
        threading.Thread(target=stock.cordon, kwargs={"by": "ada", "why": why, "lift": False})
        for stock, why in zip(stocks, texts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {stock.capacity()["cordoned"] for stock in stocks}
    assert len(told) == 1
    assert told.pop().startswith("cordoned by ada: reason ")
    engine.kill()
    engine.start()
    assert backend_of(engine).facts().cordoned.startswith("cordoned by ada: reason ")
    assert stocks[0].cordon(by="bob", why="", lift=True) == ""
    assert {stock.capacity()["cordoned"] for stock in stocks} == {""}
    volumes = engine.client().volumes()["Volumes"] or ()
    assert not [volume["Name"] for volume in volumes if names.CORDON in volume["Name"]]


# -- what a container is told of its GPUs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inventory", "uuids", "all_seen", "expected"),
    [
        ([("GPU-1", 0, ()), ("GPU-2", 1, ())], ["GPU-2"], False, "GPU-2"),
        ([("dev-nvidia0", 0, ("a",)), ("dev-nvidia1", 1, ("b",))], ["dev-nvidia1"], False, "0"),
        ([("dev-nvidia0", 0, ("a",)), ("dev-nvidia1", 1, ("b",))], ["dev-nvidia1"], True, "1"),
        ([("dev-gpu0", 0, ("a",)), ("dev-gpu1", 1, ("a",))], ["dev-gpu1"], False, "1"),
        ([("0", 0, ()), ("1", 1, ()), ("2", 2, ())], ["1", "2"], False, "0,1"),
    ],
)
def test_libraries_are_told_numbers_where_gpus_have_no_uuid(
    inventory: list[Any], uuids: list[str], all_seen: bool, expected: str
) -> None:
    known = [{"uuid": uuid, "index": index, "devices": devices} for uuid, index, devices in inventory]
    found = gpus_of(known, (), uuids, all_seen=all_seen).environment()
    assert found == {"CUDA_VISIBLE_DEVICES": expected, "JOBDEPLOY_GPUS": ",".join(uuids)}
