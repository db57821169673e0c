"""The documents hold what they promise: links lead somewhere, commands exist, what they show is valid."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from airflow_jobdeploy.core.pool import load_pool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.template import load_template

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for found in FENCE.finditer(content):
            lines = [line[len(found[1]) :] for line in found[3].splitlines()]
            line = content.count("\n", 0, found.start()) + 1
            yield Block(page=page, line=line, language=found[2], text="\n".join(lines) + "\n")


def _written_in(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


BLOCKS = list(_blocks())


def _anchors(page: Path) -> set[str]:
    """The names that headings get, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken, f"{page.relative_to(ROOT)}: {broken}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        todo += [page.parent / link.partition("#")[0] for link in links if "://" not in link]
    docs = {page.resolve() for page in (ROOT / "docs").rglob("*.md")}
    assert not docs - seen, "no link leads to these pages"


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = "\n".join(
            [*re.findall(r"`(make [^`]+)`", text), *(block.text for block in BLOCKS if block.page == page)]
        )
        named = set(re.findall(r"^make +([a-z-]+)", shown, re.MULTILINE))
        assert named <= targets, f"{page.name} names {named - targets}, which the Makefile lacks"


def test_scripts_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"(?:^|[ `(])((?:scripts|\.ci)/[\w.-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


# The reference shows signatures, which are no whole programs.
@pytest.mark.parametrize("block", [b for b in _written_in("python") if b.page.parent.name != "reference"], ids=str)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, filename=str(block))


@pytest.mark.parametrize("block", _written_in("yaml"), ids=str)
def test_yaml_is_valid_for_our_own_loaders(block: Block, tmp_path: Path) -> None:
    """What is shown as a template, a job spec or a pool loads as one."""
    data = yaml.safe_load(block.text)
    file = tmp_path / "shown.yaml"
    file.write_text(block.text, encoding="utf-8")
    if {"builds", "parent"} & set(data):
        load_template(file, search_path=[ROOT / "example_templates"])
    elif "workers" in data:
        load_pool(file)
    else:
        load_spec(file)
