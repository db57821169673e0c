"""A skip says why; with CI=true it is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_TESTS = """
import pytest

@pytest.mark.tmux
def test_marked(): pass

def test_inside(): pytest.skip("because")

@pytest.mark.xfail(reason="known")
def test_expected(): raise AssertionError

def test_plain(): pass
"""

_MODULE = 'import pytest\npytest.skip("not here", allow_module_level=True)\n'


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n    sshd: x\n    tmux: x\n")
    pytester.makepyfile(test_some=_TESTS, test_module=_MODULE)
    # No program is found here, not even one that this machine has.
    empty = pytester.mkdir("empty")
    monkeypatch.setenv("PATH", str(empty))
    source = pytester.path / "conftest.py"
    source.write_text(source.read_text().replace("/usr/sbin:/usr/local/sbin:/sbin", str(empty)))
    return pytester


def test_without_ci_a_missing_program_is_a_skip_with_its_reason(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    result = project.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=3, xfailed=1)
    result.stdout.fnmatch_lines(["*no tmux on this machine; apt-get install tmux*"])


def test_with_ci_every_skip_is_a_failure(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "--continue-on-collection-errors")
    result.assert_outcomes(passed=1, failed=1, errors=2, xfailed=1)
    result.stdout.fnmatch_lines(["*CI=true, so a skip is a failure. *no tmux on this machine*"])
    result.stdout.fnmatch_lines(["*CI=true, so a skip is a failure. *not here*"])
