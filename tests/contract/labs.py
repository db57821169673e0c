"""The workers that the contract is tried on, and the words that mean the same on all of them."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.channel import Client, LocalChannel, LocalClient, ParamikoClient
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.hostside import files
from airflow_jobdeploy.testing import MemoryHost, Program, Run, Stopped
from airflow_jobdeploy.testing.trees import MemoryStore
from tests.contract.steps import wait_until as wait_until
from tests.servers import dockerd as engines
from tests.servers import sshd as servers
from tests.servers.gpus import FakeGpus
from tests.servers.ports import free_port


class Vocabulary(Protocol):
    """What the commands of the contract's jobs do. Each gives a step."""

    def say(self, text: str, code: int = 0) -> Step:
        """Print it, byte for byte, and exit."""

    def emit(self, count: int) -> Step:
        """Print `count` bytes of the digits, again and again."""

    def block(self, *, deaf: bool = False) -> Step:
        """Print "ready" and wait for ever; `deaf`: ignoring TERM."""

    def output(self, files: dict[str, str], code: int = 0) -> Step:
        """Write output files, and exit."""

    def result(self, text: str) -> Step:
        """Write the result file."""

    def env(self, *names: str) -> Step:
        """Print the values of environment variables, a line each."""

    def cat(self, path: str) -> Step:
        """Print a file of the working directory."""

    def cat_dataset(self, path: str) -> Step:
        """Print a file of the dataset."""

    def overwrite(self, path: str, text: str) -> Step:
        """Write over a file of the working directory."""

    def save_when_told(self, text: str) -> Step:
        """Print "ready" and wait; when signalled, write a checkpoint, say so, and wait for ever."""

    def restore(self) -> Step:
        """Print the checkpoint."""

    def tell(self, *messages: dict[str, Any]) -> Step:
        """Write lines to the messages file, then block."""

    def count_start(self, counter: Path) -> Step:
        """Add one byte to a file that outlives the job, and wait for ever."""


def _step(content: str, name: str = "job") -> Step:
    return Step(name=name, kind="shell", content=content)


class ShellWords:
    """For real hosts: sh text."""

    def say(self, text: str, code: int = 0) -> Step:
        return _step(f"printf %s {shlex.quote(text)}\nexit {code}")

    def emit(self, count: int) -> Step:
        return _step(f"yes 0123456789 | tr -d '\\n' | head -c {count}")

    def block(self, *, deaf: bool = False) -> Step:
        trap = "trap '' TERM\n" if deaf else ""
        return _step(f"{trap}echo ready\nwhile :; do sleep 300; done")

    def output(self, files: dict[str, str], code: int = 0) -> Step:
        lines = ['cd "$JOBDEPLOY_OUTPUT_DIR"']
        for path, text in files.items():
            lines.append(f"mkdir -p -- {shlex.quote(str(Path(path).parent))}")
            lines.append(f"printf %s {shlex.quote(text)} > {shlex.quote('./' + path)}")
        return _step("\n".join([*lines, f"exit {code}"]))

    def result(self, text: str) -> Step:
        return _step(f"printf %s {shlex.quote(text)} > $JOBDEPLOY_RESULT_FILE")

    def env(self, *names: str) -> Step:
        return _step("\n".join(f'printf "%s\\n" "${name}"' for name in names))

    def cat(self, path: str) -> Step:
        return _step(f"cat -- {shlex.quote('./' + path)}")

    def cat_dataset(self, path: str) -> Step:
        return _step(f'cat -- "$JOBDEPLOY_DATASET_DIR"/{shlex.quote(path)}')

    def overwrite(self, path: str, text: str) -> Step:
        return _step(f"printf %s {shlex.quote(text)} > {shlex.quote('./' + path)}")

    def save_when_told(self, text: str) -> Step:
        save = f'printf %s {shlex.quote(text)} > "$JOBDEPLOY_CHECKPOINT_DIR/state"'
        tell = """printf '{"type": "checkpoint"}\\n' >> "$JOBDEPLOY_MESSAGES_FILE\""""
        handler = f"save() {{\n{save}\n{tell}\n}}\ntrap save TERM"
        return _step(f"{handler}\necho ready\nwhile :; do sleep 0.1; done")

    def restore(self) -> Step:
        return _step('cat "$JOBDEPLOY_CHECKPOINT_DIR/state"')

    def tell(self, *messages: dict[str, Any]) -> Step:
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        return _step(
            f'printf %s {shlex.quote(lines)} >>"$JOBDEPLOY_MESSAGES_FILE"\necho ready\nwhile :; do sleep 300; done'
        )

    def count_start(self, counter: Path) -> Step:
        return _step(f"printf x >> {shlex.quote(str(counter))}\nwhile :; do sleep 300; done")


class MemoryWords:
    """For the host in memory: functions, known by a name of their own."""

    def __init__(self, host: MemoryHost) -> None:
        self._host = host

    def _known(self, program: Program) -> Step:
        name = f"program {len(self._host.programs)}"
        self._host.programs[name] = program
        return _step(name)

    def say(self, text: str, code: int = 0) -> Step:
        def program(run: Run) -> int:
            run.write(text)
            return code

        return self._known(program)

    def emit(self, count: int) -> Step:
        return self.say(("0123456789" * (count // 10 + 1))[:count])

    def block(self, *, deaf: bool = False) -> Step:
        def program(run: Run) -> int:
            run.say("ready")
            run.wait_deaf() if deaf else run.wait()
            return 0

        return self._known(program)

    def output(self, files: dict[str, str], code: int = 0) -> Step:
        def program(run: Run) -> int:
            for path, text in files.items():
                run.output(path, text)
            return code

        return self._known(program)

    def result(self, text: str) -> Step:
        return self._known(lambda run: run.result(json.loads(text)))

    def env(self, *names: str) -> Step:
        return self._known(lambda run: [run.say(run.env.get(name, "")) for name in names] and 0)

    def cat(self, path: str) -> Step:
        return self._known(lambda run: run.write(run.files[path]))

    def cat_dataset(self, path: str) -> Step:
        return self._known(lambda run: run.write(run.dataset[path]))

    def overwrite(self, path: str, text: str) -> Step:
        return self._known(lambda run: run.files.update({path: text.encode()}))

    def save_when_told(self, text: str) -> Step:
        def program(run: Run) -> int:
            run.say("ready")
            try:
                run.wait()
            except Stopped:
                run.checkpoint("state", text)
                run.wait_deaf()
            return 0

        return self._known(program)

    def restore(self) -> Step:
        return self._known(lambda run: run.write(run.checkpointed()["state"]))

    def tell(self, *messages: dict[str, Any]) -> Step:
        def program(run: Run) -> int:
            for message in messages:
                run.tell(message)
            run.wait()
            return 0

        return self._known(program)

    def count_start(self, counter: Path) -> Step:
        def program(run: Run) -> int:
            with counter.open("a") as file:
                file.write("x")
            run.wait()
            return 0

        return self._known(program)


class Lab:
    """One worker, and as many backends of it as a test wants; all are closed with the lab, all jobs ended."""

    words: Vocabulary
    #: Does a transfer of files that nobody has read go on where it was cut?
    keeps_unread = True

    def __init__(self) -> None:
        self._backends: list[Backend] = []
        self._claimed: list[str] = []
        #: Ids of provisional leases, given back at the end: all tests of this machine share its cores.
        self.leases: list[str] = []

    def connect(self, machine: str | None = None) -> Backend:
        raise NotImplementedError

    def unreachable(self) -> Backend:
        """A backend of the same worker that cannot ask it."""
        raise NotImplementedError

    def forget_trees(self) -> None:
        """Nothing was ever sent."""
        raise NotImplementedError

    def with_gpus(self, count: int) -> str:
        """From now on the worker has so many GPUs, of a type that no other worker has; backends made later see them."""
        raise NotImplementedError

    def backend(self, machine: str | None = None) -> Backend:
        backend = self.connect(machine)
        self._backends.append(backend)
        return backend

    def plan(self, *steps: Step, **options: Any) -> Plan:
        plan = Plan(**{"uid": new_uid(), "steps": steps, **options})
        self._claimed.append(plan.job_id)
        return plan

    def close(self) -> None:
        last = self.connect(None)
        for lease in self.leases:
            last.release(lease)
        live = [job["state"]["job_id"] for job in last.jobs(live_only=True)]
        for job_id in live:
            last.stop(job_id, reason="the test is over", grace_s=0.1)
        wait_until(last, live, lambda states: all(state.status.is_finished for state in states.values()))
        for backend in (*self._backends, last):
            backend.close()


class MemoryLab(Lab):
    keeps_unread = False

    def __init__(self) -> None:
        super().__init__()
        self.host = MemoryHost()
        self.words = MemoryWords(self.host)

    def connect(self, machine: str | None = None) -> Backend:
        return self.host.backend(machine=machine)

    def forget_trees(self) -> None:
        self.host.store = MemoryStore(self.host.name)

    def with_gpus(self, count: int) -> str:
        model, (size, names) = _model(), (80 << 30, [f"GPU-{secrets.token_hex(8)}" for _ in range(count)])
        self.host.line.capacity["gpus"] = [
            {"index": index, "uuid": uuid, "model": model, "memory_bytes": size, "mig": False}
            for index, uuid in enumerate(names)
        ]
        return model

    def unreachable(self) -> Backend:
        other = MemoryHost()
        other.unplug()
        return other.backend()


class HostedLab(Lab):
    """This machine, or a real sshd on it, with a root of the test's own."""

    def __init__(self, kind: str, root: Path, server: servers.Sshd | None = None) -> None:
        super().__init__()
        self.kind, self.root, self.server = kind, root, server
        self.words = ShellWords()
        #: The PATH of jobs; None: that of a login.
        self.path: str | None = None

    def client(self) -> Client:
        return self.server.client() if self.server else LocalClient()

    def connect(self, machine: str | None = None) -> Backend:
        return HostedBackend(
            worker=self.kind,
            kind=self.kind,
            connect=self.client,
            root=str(self.root),
            path=self.path,
            machine=machine,
        )

    def with_gpus(self, count: int) -> str:
        # All tests of this machine share its line: only those ask for this type.
        fake = FakeGpus(self.root.parent / "tools", count=count, model=_model())
        self.path = f"{fake.folder}:{os.environ['PATH']}"
        return fake.model

    def forget_trees(self) -> None:
        files.remove_tree(str(self.root / "store"))

    def unreachable(self) -> Backend:
        def nobody_listens() -> Client:
            assert self.server is not None
            gone = replace(self.server, port=free_port())
            return ParamikoClient(gone.connect, name="gone")

        connect = nobody_listens if self.server else WithoutPython
        return HostedBackend(worker="gone", kind=self.kind, connect=connect, root=str(self.root))


class DockerLab(Lab):
    """A real dockerd. `shared`: a folder that its containers see, for what a test itself must see."""

    def __init__(self, engine: engines.Dockerd, shared: Path) -> None:
        super().__init__()
        self.engine, self.shared = engine, shared
        self.words = ShellWords()
        self.gpus: tuple[dict[str, Any], ...] = ()

    def connect(self, machine: str | None = None) -> Backend:
        settings = Settings(image=engines.IMAGE, shared=str(self.shared), gpus=self.gpus)
        return DockerBackend(worker="docker", connect=self.engine.client, settings=settings, machine=machine)

    def unreachable(self) -> Backend:
        gone = engines.Dockerd(self.shared / "nobody")
        return DockerBackend(worker="gone", connect=gone.session, settings=Settings())

    def forget_trees(self) -> None:
        self.engine.wipe()

    def with_gpus(self, count: int) -> str:
        model = _model()
        self.gpus = tuple(
            {
                "index": index,
                "uuid": f"GPU-{secrets.token_hex(8)}",
                "model": model,
                "memory_bytes": 80 << 30,
                "mig": False,
                "devices": [f"/dev/null:/dev/nvidia{index}"],
            }
            for index in range(count)
        )
        return model

    def close(self) -> None:
        super().close()
        self.engine.wipe()


class WithoutPython(LocalClient):
    """This machine after its Python was uninstalled."""

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return super().open(["/nonexistent/python3", *argv[1:]])


def _model() -> str:
    return f"Fake {secrets.token_hex(4)}"


@contextmanager
def opened(lab: Lab) -> Iterator[Lab]:
    try:
        yield lab
    finally:
        lab.close()
