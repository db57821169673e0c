from __future__ import annotations

from tests.servers.sshd import sshd as sshd
