"""SSH hosts of their own kernel namespaces, for faults that a loopback sshd cannot have: cut, frozen, powered off.

Each host has its own network (a veth pair, addresses of 198.18.0.0/15, RFC 2544), processes, mounts, hostname, /etc (an
overlay: its own machine-id and account), /tmp, and a home on a small tmpfs that outlives its power. What they share
with this machine and each other is the kernel, so also the boot id and the clock. No packet leaves this machine.

Needs root, iproute2, iptables, util-linux and sshd: mark the tests with `netns`. Everything made here has a name that
ends with the pid of its maker, and is removed with the fixture, or by the next run when its maker was killed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from tests.servers import kernel

USER, UID = "worker", 60177
MIB = 1024 * 1024
_NAME = re.compile(r"jd\d+-(\d+)\Z")

_CONFIG = f"""\
HostKey /etc/ssh/jobdeploy_host_key
AuthorizedKeysFile /etc/ssh/jobdeploy_authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
AllowUsers {USER}
"""

#: Process 1 of a host. /mnt is the directory that this side knows as `Host.dir`.
_INIT = f"""\
set -e
mount --rbind "$1" /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/etc/upper /run/etc/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
echo '{USER}:x:{UID}:{UID}::/home/{USER}:/bin/sh' >> /etc/passwd
echo '{USER}:*:19000:0:99999:7:::' >> /etc/shadow
echo '{USER}:x:{UID}:' >> /etc/group
cp -a /mnt/etc/. /etc/
mount -t tmpfs -o mode=755 tmpfs /home
mkdir /home/{USER}
mount --bind /mnt/home /home/{USER}
mount -t tmpfs -o mode=1777,size=64m tmpfs /tmp
mount -t tmpfs -o mode=1777,size=16m tmpfs /dev/shm
hostname "$2"
/usr/sbin/sshd -E /mnt/sshd.log
while :; do sleep 3600 & wait $!; done
"""


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin:/sbin")
    assert found, f"{name} is missing; mark the test with `netns`"
    return found


def _do(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([_program(command[0]), *command[1:]], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done


class _Slot:
    """A number that no other process of this machine has now: the kernel frees it with its holder."""

    def __init__(self) -> None:
        directory = Path(tempfile.gettempdir()) / "jobdeploy-test-hosts"
        directory.mkdir(mode=0o700, exist_ok=True)
        for number in range(2**14):
            file = (directory / str(number)).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            self.number, self._file = number, file
            return
        raise AssertionError("no free number for a test host")

    def free(self) -> None:
        self._file.close()


@dataclass
class Host:
    """One host. `dir`: its side of what persists; `home` as seen from here; all times in seconds."""

    dir: Path
    home_bytes: int = 48 * MIB
    #: How far its clock is off, in seconds, with a sign: "+3600". Needs libfaketime: mark the test with `faketime`.
    clock: str = ""
    _slot: _Slot = field(default_factory=_Slot)
    _init: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.name = f"jd{self._slot.number}-{os.getpid()}"
        third, fourth = divmod(self._slot.number * 4, 256)
        self._near, self.address = (f"198.18.{third}.{fourth + last}" for last in (1, 2))
        self.home = self.dir / "home"
        self.root = self.home / ".jobdeploy"

    # -- made and removed ------------------------------------------------------------------------------------------

    def make(self) -> None:
        """The network, the disk and the keys; the host is off."""
        ssh = self.dir / "etc" / "ssh"
        ssh.mkdir(parents=True)
        self.home.mkdir()
        size = f"size={self.home_bytes},mode=700,uid={UID},gid={UID}"
        _do("mount", "-t", "tmpfs", "-o", size, self.name, str(self.home))
        if self.clock:
            [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
            (self.dir / "etc" / "ld.so.preload").write_text(f"{library}\n")
            (self.dir / "etc" / "faketimerc").write_text(f"{self.clock}\n")
        (self.dir / "etc" / "machine-id").write_text(os.urandom(16).hex() + "\n")
        self.new_host_key()
        self.user_key = self.new_user_key()
        self.write_config()
        _do("ip", "netns", "add", self.name)
        _do("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _do("ip", "addr", "add", f"{self._near}/30", "dev", self.name)
        _do("ip", "link", "set", self.name, "up")
        _do("ip", "-n", self.name, "addr", "add", f"{self.address}/30", "dev", "eth0")
        _do("ip", "-n", self.name, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Everything of it; safe after a failure at any point, and twice."""
        self.power_off()
        _remove(self.name)
        _do("umount", "--lazy", str(self.home), check=False)
        self._slot.free()

    # -- power -----------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Returns when its sshd answers."""
        _do("ip", "-n", self.name, "link", "set", "eth0", "up")
        new = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        self._init = subprocess.Popen(
            [*self._inside_network(), _program("unshare"), *new, "sh", "-c", _INIT, "init", str(self.dir), self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.dir / "init.log").open("ab"),
            start_new_session=True,
        )
        self._await_sshd()

    def power_off(self) -> None:
        """At once and without a word on the wire: all its processes and memory are gone, the disk stays."""
        if self._init is None:
            return
        _do("ip", "-n", self.name, "link", "set", "eth0", "down", check=False)
        first = self.first_process()
        for pid in (first, self._init.pid):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._init.wait(60)
        self._init = None

    def first_process(self) -> int | None:
        """Its process 1, as a pid of this side."""
        assert self._init is not None, f"{self.name} is off"
        pid = self._init.pid
        try:
            below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(below[0]) if below else None

    def processes(self) -> dict[int, bytes]:
        """Command lines of its living processes, by pids of this side; without process 1 and its sleep."""
        first = self.first_process()
        space = kernel.pid_space(first)
        found = [pid for pid in kernel.all_pids() if pid != first and kernel.pid_space(pid) == space]
        lines = {pid: kernel.read(pid, "cmdline") for pid in found if kernel.is_alive(pid)}
        return {pid: line for pid, line in lines.items() if line != b"sleep\x003600\x00"}

    def traces(self) -> list[str]:
        """Temporary directories of jobs, and sockets of ours."""
        sockets = [line for line in self.run("cat /proc/net/unix").splitlines() if "jobdeploy" in line]
        return [*self.run(f"ls -d /tmp/jd-{UID}/* 2>/dev/null; true").split(), *sockets]

    def freeze(self) -> None:
        """It hangs: the kernel still answers packets, no program does."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        first = self.first_process()
        for pid in (*self.processes(), first):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def run(self, command: str, *, user: str = USER) -> str:
        """Run sh text on the host; what it printed."""
        spaces = ["nsenter", "-t", str(self.first_process()), "-m", "-u", "-i", "-n", "-p"]
        account = ["-S", str(UID), "-G", str(UID)] if user == USER else []
        surroundings = ["env", "-i", f"HOME=/home/{USER}", "PATH=/usr/bin:/bin:/usr/sbin"]
        return _do(*spaces, *account, *surroundings, "sh", "-c", command).stdout

    def protect(self) -> None:
        """The home becomes read-only for whoever opens a file from now on."""
        home = f"/home/{USER}"
        self.run(f"mount --bind {home} {home} && mount -o remount,bind,ro {home}", user="root")

    def unprotect(self) -> None:
        self.run(f"umount --lazy /home/{USER}", user="root")

    # -- network ---------------------------------------------------------------------------------------------------

    def _inside_network(self) -> list[str]:
        return [_program("nsenter"), f"--net=/run/netns/{self.name}"]

    def _iptables(self, *rule: str) -> None:
        _do(*self._inside_network(), _program("iptables"), "-w", *rule)

    def cut(self) -> None:
        """A black hole: what is sent to it or by it is lost without a trace."""
        self._iptables("-I", "INPUT", "-i", "eth0", "-j", "DROP")
        self._iptables("-I", "OUTPUT", "-o", "eth0", "-j", "DROP")

    def lose(self, share: float) -> None:
        """This share of all packets is lost, in each direction."""
        random = ("-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")
        self._iptables("-I", "INPUT", "-i", "eth0", *random)
        self._iptables("-I", "OUTPUT", "-o", "eth0", *random)

    def heal(self) -> None:
        """The end of `cut` and `lose`."""
        self._iptables("-F")

    # -- sshd ------------------------------------------------------------------------------------------------------

    def new_host_key(self) -> None:
        """Made anew; in force from the next start of the sshd."""
        self._new_key(self.dir / "etc" / "ssh" / "jobdeploy_host_key")

    def new_user_key(self) -> Path:
        """Made anew; the old one is let in no more from the next start of the sshd."""
        key = self.dir / f"user_key-{secrets.token_hex(3)}"
        self._new_key(key)
        shutil.copy(f"{key}.pub", self.dir / "etc" / "ssh" / "jobdeploy_authorized_keys")
        (self.dir / "etc" / "ssh" / "jobdeploy_authorized_keys").chmod(0o644)
        return key

    def _new_key(self, path: Path) -> None:
        for old in (path, Path(f"{path}.pub")):
            old.unlink(missing_ok=True)
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))

    def write_config(self, **options: object) -> None:
        """Lines of sshd_config(5), above those that we need; in force from the next start."""
        lines = "".join(f"{name} {value}\n" for name, value in options.items())
        (self.dir / "etc" / "ssh" / "sshd_config").write_text(lines + _CONFIG)

    def restart_sshd(self) -> None:
        """Ends the listener and its sessions, and starts it with the present files."""
        self.kill(lambda line: line.startswith(b"sshd: "))
        self.run("cp -a /mnt/etc/. /etc/; /usr/sbin/sshd -E /mnt/sshd.log", user="root")
        self._await_sshd()

    def kill(self, which: Callable[[bytes], bool], number: int = signal.SIGKILL) -> int:
        """Signal the processes whose command line is as asked for; how many."""
        chosen = [pid for pid, line in self.processes().items() if which(line)]
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(chosen)

    def _await_sshd(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection((self.address, 22), timeout=1) as probe:
                if probe.recv(4) == b"SSH-":
                    return
            time.sleep(0.02)  # sshd says nowhere that it listens
        logs = [(self.dir / name).read_text() for name in ("init.log", "sshd.log") if (self.dir / name).exists()]
        raise AssertionError(f"{self.name} does not come up: {' '.join(logs)}")

    def host_key(self) -> paramiko.PKey:
        """The one that will be in force after the next start of the sshd."""
        text = (self.dir / "etc" / "ssh" / "jobdeploy_host_key.pub").read_text()
        return paramiko.Ed25519Key(data=base64.b64decode(text.split()[1]))


def _remove(name: str) -> None:
    """What `ip` knows by this name."""
    _do("ip", "link", "del", name, check=False)
    _do("ip", "netns", "del", name, check=False)


def sweep() -> None:
    """Remove what killed test runs have left."""
    made = {line.split(":")[1].partition("@")[0].strip() for line in _do("ip", "-o", "link").stdout.splitlines()}
    made |= {line.split()[0] for line in _do("ip", "netns", "list").stdout.splitlines() if line.strip()}
    for name in made:
        found = _NAME.match(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            for pid in _do("ip", "netns", "pids", name, check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _remove(name)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, place = line.split()[:2]
        found = _NAME.match(device)
        if found and not Path(f"/proc/{found[1]}").exists():
            _do("umount", "--lazy", place, check=False)


NewHost = Callable[..., Host]


@pytest.fixture(scope="session")
def swept() -> None:
    """Once in a run, before its first host."""
    sweep()


@pytest.fixture
def new_host(swept: None, tmp_path: Path) -> Iterator[NewHost]:
    """Makes hosts, switched on; options are those of `Host`. All are removed afterwards, whatever happened."""
    with contextlib.ExitStack() as hosts:

        def make(**options: object) -> Host:
            host = Host(dir=tmp_path / f"host{secrets.token_hex(3)}", **options)  # type: ignore[arg-type]
            hosts.callback(host.remove)
            host.make()
            host.power_on()
            return host

        yield make
