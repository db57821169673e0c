"""Images of Dockerfiles: built by the engine's own builder, from code that lies on the engine already.

The code comes out of its volume and goes to the builder as it comes, so that it is what any job of that code would
see, on whichever machine this is. Whoever builds holds a name, and shows now and then that he is alive.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from airflow_jobdeploy.backends.arriving import Pieces
from airflow_jobdeploy.backends.engine import config, images, names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.recipe import LIMIT_S, Recipe, Stage
from airflow_jobdeploy.backends.engine.tar import Member, below
from airflow_jobdeploy.backends.engine.ticking import ticking
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import StagingError, WorkerError, WorkerUnreachable

#: Who builds says that he is alive each so often; one who has not for so long was killed. In seconds.
_BEAT_S, _DEAD_S = 5.0, 30.0
#: A step of a Dockerfile may say nothing for so long, in seconds.
_SILENCE_S = 3600.0
_LOOK_S = 1.0
_TREE = f"{names.BUNDLE}/{names.TREE}"
_PIECE = 256 * 1024

Say = Callable[[str], None]


@dataclass(frozen=True)
class Builder:
    """Builds on one engine. Used by one thread at a time."""

    engine: Engine
    places: Places
    auth: images.Auth

    def build(self, recipe: Recipe, stage: Stage, name: str, say: Say) -> None:
        """Have the image; StagingError in the builder's words. Of several at once one builds, the others wait."""
        holder, told = names.build_holder(name), False
        while True:
            with _held(self.engine, self.places, holder) as is_ours:
                if is_ours:
                    if recipe.pull == "always" or images.found(self.engine, name) is None:
                        self._build(recipe, stage, name, say)
                    return
            say("" if told else f"Another job is making {stage.about}: waiting for it.")
            told = True
            _await_release(self.engine, self.places, holder)
            if recipe.pull != "always" and images.found(self.engine, name) is not None:
                return

    def _build(self, recipe: Recipe, stage: Stage, name: str, say: Say) -> None:
        say(f"Making {stage.about} on {self.engine.worker}.")
        asked: dict[str, Any] = {
            "t": name,
            "dockerfile": stage.content["path"],
            "labels": json.dumps({names.KIND: names.IMAGE_KIND, names.ABOUT: stage.about}),
            "pull": recipe.pull == "always",
            "rm": True,
            "forcerm": True,
        }
        volume = names.tree_volume(recipe.context)
        headers = {"Content-Type": "application/x-tar", **_logins(self.auth)}
        with self.places.helper({volume: names.BUNDLE}) as helper, self.places.get(helper, _TREE) as pieces:
            data = _seen(_context(Pieces(pieces), _ignored(self.places, helper, stage.content["path"])), say)
            limit_s = recipe.limit_s or LIMIT_S
            until = time.monotonic() + limit_s
            late = f"{stage.about} could not be made: it took longer than {duration(limit_s)}"
            try:
                with (
                    self.engine.receive(
                        "/build", method="POST", headers=headers, data=data, answer_s=min(_SILENCE_S, limit_s), **asked
                    ) as answer,
                    ticking(self.engine, answer, lambda: say("")) as ticked,
                ):
                    _follow(_until(ticked, until, late), stage, say)
            except EngineError as error:
                raise StagingError(f"{stage.about} could not be made: {error.said}") from error
            except WorkerUnreachable as error:
                if time.monotonic() < until:
                    raise
                raise StagingError(late) from error
        say(f"Made {stage.about}: {name}.")


def _seen(data: Iterator[bytes], say: Say) -> Iterator[bytes]:
    """The same, with a sign of life for each piece that is sent."""
    for piece in data:
        say("")
        yield piece


def _until(answer: Iterator[bytes], until: float, late: str) -> Iterator[bytes]:
    """The pieces that come in time."""
    for piece in answer:
        if time.monotonic() > until:
            raise StagingError(late)
        yield piece


def _logins(auth: images.Auth) -> dict[str, str]:
    """For the images that a Dockerfile begins with."""
    login = auth(None)
    if not login:
        return {}
    known = json.dumps({str(login["serveraddress"]): {key: login[key] for key in ("username", "password")}})
    return {"X-Registry-Config": base64.urlsafe_b64encode(known.encode()).decode()}


def _follow(answer: Iterator[bytes], stage: Stage, say: Say) -> None:
    last: list[str] = []
    for line in images.json_lines(answer):
        text = str(line.get("stream") or "").strip("\n")
        if line.get("error"):
            said = "\n".join([*last[-8:], str(line["error"])])
            raise StagingError(f"{stage.about} could not be made: {said}{_hint(said)}")
        say(text)
        last = [*last[-20:], *([text] if text else [])]


def _hint(said: str) -> str:
    if "requires BuildKit" in said or "unknown flag" in said:
        return "\nEngines are asked for their own builder, which is not BuildKit: leave such options out."
    if "no space left" in said.lower():
        return "\nFree some space on the engine's disk (docker system df)."
    return ""


# -- the context -----------------------------------------------------------------------------------------------------


def _ignored(places: Places, container: str, dockerfile: str) -> Callable[[str], bool]:
    """Is a path left out by the project's .dockerignore? Engines leave that to whoever asks."""
    from docker.utils.build import PatternMatcher

    text = places.small(container, f"{_TREE}/.dockerignore", 1024 * 1024).get(".dockerignore", b"")
    lines = [line.strip() for line in text.decode("utf-8", "surrogateescape").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    if not patterns:
        return lambda path: False
    matcher: Any = PatternMatcher([*patterns, f"!{dockerfile}", "!.dockerignore"])
    return lambda path: bool(matcher.matches(path))


def _context(stream: Pieces, is_ignored: Callable[[str], bool]) -> Iterator[bytes]:
    """A tree's archive as a build's context: without the folder in front, writable for its owner."""
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", errors="surrogateescape") as archive:
        for entry in archive:
            name = below(entry.name)
            if name == entry.name or is_ignored(name.rstrip("/")):
                continue  # the folder itself has no name below
            if entry.islnk():
                entry.linkname = below(entry.linkname)
            entry.name, entry.mode, entry.pax_headers = name, entry.mode | 0o200, {}
            yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if entry.isreg():
                content = archive.extractfile(entry)
                while content is not None and (piece := content.read(_PIECE)):
                    yield piece
                yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


# -- one at a time ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _held(engine: Engine, places: Places, holder: str) -> Iterator[bool]:
    """Hold the name while the block lasts; False: somebody else does, and lives."""
    try:
        container = places.create(holder, config.helper({}))
    except EngineError as error:
        if not error.is_conflict:
            raise
        yield False
        return
    with contextlib.ExitStack() as stack:
        stack.callback(places.remove_container, container, force=True)
        stack.enter_context(_beating(engine, places, container))
        yield True


@contextlib.contextmanager
def _beating(engine: Engine, places: Places, container: str) -> Iterator[None]:
    """Write the time into a container now and then, by a connection of its own: the other one is busy."""
    over = threading.Event()
    own = engine.another()
    clock = places.now

    def beat() -> None:
        there = Places(own)
        while not over.is_set():
            with contextlib.suppress(WorkerError):  # the next one may arrive
                there.put(container, "/", [Member("at", str(clock()).encode())])
            over.wait(_BEAT_S)
        own.drop()

    thread = threading.Thread(target=beat, name="jobdeploy-build", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _await_release(engine: Engine, places: Places, holder: str) -> None:
    """Until the name is free, at most for a look's time; one whose holder was killed is taken from him."""
    try:
        created = seconds(engine.get(f"/containers/{holder}/json").get("Created")) or 0.0
        said = places.small(holder, "/at", 64).get("at") or b"0"
    except EngineError as error:
        if error.is_missing:
            return
        raise
    now = places.now()
    if now - max(created, float(said)) > _DEAD_S:
        places.remove_container(holder, force=True)
        return
    wanted = {"type": ["container"], "container": [holder], "event": ["destroy"]}
    with engine.receive("/events", filters=wanted, since=f"{now - 0.1:.9f}", until=f"{now + _LOOK_S:.9f}") as pieces:
        next(pieces, None)
