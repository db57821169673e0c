"""Derived images: made once of all that goes into them, by whoever needs one first; the others wait, and hear its log.

Packages are installed in a container whose files become the image (build.sh). It goes on without whoever began it: its
name is the claim, and anybody may make the image of it once it has ended well. A Dockerfile is built by the engine's
own builder, which ends with the connection that asked; a container that is never started holds the name meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_jobdeploy.backends.engine import config, dockerfiles, images, names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.logs import Log
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.recipe import ENVIRONMENT, LIMIT_S, Recipe, Stage
from airflow_jobdeploy.backends.engine.tar import Member, folder
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside import install
from airflow_jobdeploy.hostside import logs as host_logs

_PLACE = f"{names.TOP}/build"
#: Exit codes of build.sh: nobody began it; it was removed meanwhile.
_NOT_BEGUN, _GONE = 111, -1
#: So many looks long the one who began a build is waited for when it has ended.
_KEPT_LOOKS = 5
#: Between two looks at a build; a name is asked for again after; one who begins takes no longer. In seconds.
_LOOK_S, _PAUSE_S, _BEGUN_S = 1.0, 0.1, 30.0
_TAIL = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Say = Callable[[str], None]
Image = tuple[str, Mapping[str, Any]]


class Derived:
    """The images of jobs on one engine. Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places, auth: images.Auth) -> None:
        self._engine = engine
        self._places = places
        self._builder = dockerfiles.Builder(engine, places, auth)

    def ready(self, recipe: Recipe) -> Image | None:
        """(name, description) of the image of a recipe, if all of it is there."""
        name, described = recipe.image, images.found(self._engine, recipe.image) if recipe.image else {}
        for stage in recipe.stages:
            if described is None:
                return None
            name = stage.name(str(described.get("Id", "")))
            described = images.found(self._engine, name)
        return None if described is None else (name, described)

    def make(self, recipe: Recipe, *, secrets: Mapping[str, str], say: Say, begin: Callable[[], None]) -> Image:
        """The image of a recipe, of which the first part is there. StagingError says why it cannot be made.

        `secrets`: for installers, never kept. `begin`: called once, before something is made.
        """
        begin = _Once(begin)
        name, described = recipe.image, images.found(self._engine, recipe.image) if recipe.image else {}
        for stage in recipe.stages:
            if described is None:
                raise StagingError(f"image {name!r} was removed from {self._engine.worker} just now")
            before = described
            name = stage.name(str(before.get("Id", "")))
            described = images.found(self._engine, name)
            if described is not None and not (stage.kind == "dockerfile" and recipe.pull == "always"):
                self._touch(name)
                continue
            begin()
            if stage.kind == "dockerfile":
                self._builder.build(recipe, stage, name, say)
            else:
                self._install(recipe, stage, name, before, secrets, say)
            described = images.found(self._engine, name)
        if described is None:
            raise StagingError(f"image {name!r} was removed from {self._engine.worker} just now")
        return name, described

    def _touch(self, name: str) -> None:
        """It is used: the time of its tag is when it was used last."""
        repository, _, tag = name.rpartition(":")
        with contextlib.suppress(EngineError):
            self._engine.post(f"/images/{quote(name, safe='/:@')}/tag", None, repo=repository, tag=tag)

    # -- packages ----------------------------------------------------------------------------------------------------

    def _install(
        self, recipe: Recipe, stage: Stage, name: str, before: Mapping[str, Any], secrets: Mapping[str, str], say: Say
    ) -> None:
        holder, waits = names.build_holder(name), False
        while images.found(self._engine, name) is None:
            ours = self._begin(holder, recipe, stage, before, secrets)
            try:
                if ours:
                    say(f"Making {stage.about} on {self._engine.worker}.")
                elif not waits:
                    say(f"Another job is making {stage.about}: waiting for it.")
                waits = not ours
                code, tail = self._follow(holder, say, secrets)
                if code == 0 and (ours or not self._is_kept(holder, name)):
                    self._keep(holder, name, before, stage)
                elif code not in (0, _GONE, _NOT_BEGUN):
                    raise StagingError(self._failure(holder, stage, code, tail, secrets))
            except BaseException:
                if ours:  # let go, or failed: whoever else waits for it begins anew, or has seen the same
                    self._places.remove_container(holder, force=True)
                raise
            if code != _GONE:
                self._places.remove_container(holder, force=True)
            else:
                time.sleep(_PAUSE_S)  # an engine gives a name away, and takes it back, some moments before it shows
        say(f"Made {stage.about}: {name}.")

    def _begin(
        self,
        holder: str,
        recipe: Recipe,
        stage: Stage,
        before: Mapping[str, Any],
        secrets: Mapping[str, str],
    ) -> bool:
        """Start the container that makes it; False: there is one."""
        limit_s = max(1, round(recipe.limit_s or LIMIT_S))
        labels = {names.ABOUT: stage.about, names.COMMAND: json.dumps(images.command(before))}
        body = config.builder(str(before["Id"]), _PLACE, labels, limit_s)
        try:
            container = self._places.create(holder, body)
        except EngineError as error:
            if error.is_conflict:
                return False
            raise StagingError(f"{stage.about} cannot be made: {error.said}") from error
        try:
            self._places.put(container, _PLACE, list(_files(stage)))
            self._engine.post(f"/containers/{container}/start")
            env = [f"{key}={value}" for key, value in {**recipe.env, **secrets}.items()]
            command = ["/bin/sh", f"{_PLACE}/build.sh", stage.kind]
            asked = {"Cmd": command, "Env": env, "User": "0:0", "WorkingDir": "/"}
            made = self._engine.post(f"/containers/{container}/exec", asked)
            self._engine.post(f"/exec/{made['Id']}/start", {"Detach": True})
        except BaseException as error:
            self._places.remove_container(container, force=True)
            if isinstance(error, EngineError):
                raise StagingError(f"{stage.about} cannot be made: {images.explained(error.said)}") from error
            raise
        return True

    def _follow(self, holder: str, say: Say, secrets: Mapping[str, str]) -> tuple[int, bytes]:
        """Say what it says until it has ended: its exit code, and the end of its log."""
        offset, tail = 0, b""
        try:
            described = self._engine.get(f"/containers/{holder}/json")
            container, made = str(described["Id"]), seconds(described["Created"]) or 0.0
            log = Log(self._engine, container)
            while True:
                state = self._engine.get(f"/containers/{container}/json")["State"]
                log.grow(final=not state["Running"])
                _, data = log.read(offset, log.size - offset)
                offset, tail = offset + len(data), (tail + data)[-_TAIL:]
                say(_readable(data, secrets))
                if not state["Running"] and state["Status"] != "created":
                    rest = unsaid(self._places.small(container, _PLACE, 4096).get("said", b""), tail)
                    say(_readable(rest, secrets))
                    return int(state["ExitCode"]), tail + rest
                if state["Status"] == "created" and self._places.now() - made > _BEGUN_S:
                    return _NOT_BEGUN, tail
                self._await(container, "die", "destroy")
        except EngineError as error:
            if error.is_missing:
                return _GONE, tail
            raise

    def _await(self, container: str, *events: str) -> None:
        """Until one of these has happened to it, at most for a look's time."""
        now = self._places.now()
        wanted = {"type": ["container"], "container": [container], "event": [*events]}
        asked = {"filters": wanted, "since": f"{now - 0.1:.9f}", "until": f"{now + _LOOK_S:.9f}"}
        with self._engine.receive("/events", **asked) as pieces:  # type: ignore[arg-type]
            next(pieces, None)

    def _is_kept(self, holder: str, name: str) -> bool:
        """Does whoever began it make the image, soon?"""
        for _ in range(_KEPT_LOOKS):
            if images.found(self._engine, name) is not None:
                return True
            self._await(holder, "destroy")
        return False

    def _keep(self, holder: str, name: str, before: Mapping[str, Any], stage: Stage) -> None:
        """Make the image of the container's files."""
        repository, _, tag = name.rpartition(":")
        asked: dict[str, Any] = {"container": holder, "repo": repository, "tag": tag, "pause": False}
        try:
            self._engine.post("/commit", None, **asked, changes=list(_changes(before, stage)))
        except EngineError as error:
            if not error.is_missing:  # else another has made it
                raise StagingError(f"{stage.about} cannot be kept: {images.explained(error.said)}") from error

    def _failure(self, holder: str, stage: Stage, code: int, tail: bytes, secrets: Mapping[str, str]) -> str:
        why = self._places.small(holder, _PLACE, 4096).get("why", b"").decode("utf-8", "replace").strip()
        end = _hidden(tail.decode("utf-8", "replace"), secrets)
        words = why or install.last_words(end) or "it said nothing"
        text = f"{stage.about} could not be made (exit code {code}): {words}"
        return f"{text}\nFree some space on the engine's disk (docker system df)." if "No space left" in words else text


class _Once:
    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


def _files(stage: Stage) -> Iterator[Member]:
    yield folder(".", 0o755)
    yield Member("build.sh", Path(__file__).with_name("build.sh").read_bytes(), 0o755)
    if stage.kind == "apt":
        yield _lines("packages", stage.content["packages"])
        return
    yield _lines("place", [ENVIRONMENT])
    yield _lines("python", [stage.content.get("python", "")])
    yield _lines("requirements.txt", stage.content["requirements"])
    if stage.content.get("constraints"):
        yield _lines("constraints.txt", stage.content["constraints"])


def _lines(name: str, lines: Any) -> Member:
    return Member(name, "\n".join([*lines, ""]).encode("utf-8", "surrogateescape"), 0o644)


def _changes(before: Mapping[str, Any], stage: Stage) -> Iterator[str]:
    """What the image shall say of itself: as the one before, but for ours."""
    known = before.get("Config") or {}
    yield f"LABEL {names.KIND}={names.IMAGE_KIND}"
    yield f"ENTRYPOINT {json.dumps(list(known.get('Entrypoint') or ()))}"
    yield f"CMD {json.dumps(list(known.get('Cmd') or ()))}"
    yield f"WORKDIR {known.get('WorkingDir') or '/'}"
    yield f"USER {known.get('User') or '0'}"
    if stage.kind == "pip":
        env = dict(entry.partition("=")[::2] for entry in known.get("Env") or ())
        yield f"ENV VIRTUAL_ENV={ENVIRONMENT}"
        path = f"{ENVIRONMENT}/bin:{env.get('PATH') or _PATH}"
        yield f"ENV PATH={json.dumps(path)}"


def unsaid(kept: bytes, logged: bytes) -> bytes:
    """What the end of a log lacks of the end that was kept beside it: an engine may lose it with its container."""
    if kept in logged:
        return b""
    shared = next(count for count in range(len(kept), -1, -1) if logged.endswith(kept[:count]))
    return kept[shared:]


def _hidden(text: str, secrets: Mapping[str, str]) -> str:
    for value in secrets.values():
        text = text.replace(value, "***") if value else text
    return text


def _readable(data: bytes, secrets: Mapping[str, str]) -> str:
    """What was said, as lines for people; "" for nothing."""
    lines = (host_logs.shown(line) for line in _hidden(data.decode("utf-8", "replace"), secrets).split("\n"))
    return "\n".join(line for line in lines if line)
