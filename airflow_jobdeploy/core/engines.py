"""What a pool says about Docker engines: their URLs, TLS, images, and how containers are shut in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from airflow_jobdeploy.core.fields import Record, declared
from airflow_jobdeploy.core.kinds import Flag, Many, Problems, Schema, Text, expected
from airflow_jobdeploy.core.source import Item, described, shortened

SCHEMES = ("unix", "tcp", "ssh")
_FORMS = "Write unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host:22."
#: Docker's grammar of references (distribution/reference): registry, path, tag, digest.
_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::\d{1,5})?"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_PATH}(?:/{_PATH})*(?::[\w][\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?")


@dataclass(frozen=True)
class EngineUrl:
    """Where an engine listens."""

    def read(self, item: Item, problems: Problems) -> str | None:
        text = Text().read(item, problems)
        if text is not None and (why := wrong_url(text)):
            problems.append(item.problem(why, _FORMS))
            return None
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^(unix|tcp|ssh)://."}


def wrong_url(text: str) -> str:
    """What is wrong with the URL of an engine; "" when nothing is."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        return f"{described(text)} is not the URL of an engine."
    if scheme == "unix":
        return "" if rest.startswith("/") else "the path of a socket must be absolute."
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"{described(text)} is not a URL."
    if not host or host.startswith("-") or parts.query or parts.fragment or parts.path.strip("/"):
        return f"{described(text)} names no host."
    if parts.password is not None:
        return "a password must not stand in a URL."
    return "" if port or scheme == "ssh" else "the port is missing."


@dataclass(frozen=True)
class ImageName:
    """The name of an image: registry, path, tag or digest."""

    def read(self, item: Item, problems: Problems) -> str | None:
        text = Text().read(item, problems)
        if text is not None and (why := wrong_image(text)):
            problems.append(item.problem(*why))
            return None
        return text

    def schema(self) -> Schema:
        return {"type": "string"}


def wrong_image(text: str) -> tuple[str, str] | None:
    """What is wrong with an image's name, and what to do; None when nothing is."""
    shown, form = described(text), "Names look like registry.example:5000/team/image:tag."
    if text.startswith("image:"):
        text_of = "an image of a platform's own registry (image:name) cannot be pulled by engines."
        return text_of, f"Give the registry's address. {form}"
    if _IMAGE.fullmatch(text):
        return None
    if text.lower() != text and _IMAGE.fullmatch(text.lower()):
        return f"{shown}: the name of an image has no capital letters.", form
    if text.partition("@")[0].rpartition("/")[2].count(":") > 1:
        return f"{shown} has more than one tag.", form
    return f"{shown} is not the name of an image.", form


#: Names of images that dl_jobs knows; which images they are is the pool's to say.
ALIASES = ("py27", "py27_gpu", "py36", "py36_gpu", "py37", "py37_gpu")
_ALIAS = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")


@dataclass(frozen=True)
class Images:
    """A pool's short names for images. Read as a dict."""

    def read(self, item: Item, problems: Problems) -> dict[str, str] | None:
        if not isinstance(item.value, dict):
            expected(item, "a mapping of short names to images", problems)
            return None
        before = len(problems)
        found = {}
        for name, image in item.fields():
            if not _ALIAS.fullmatch(name):
                problems.append(image.problem(f"{described(name)} is not a short name.", "Write one such as py37_gpu."))
            found[name] = ImageName().read(image, problems) or ""
        return found if len(problems) == before else None

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": {"type": "string"}}


#: Debian Policy 5.6.1; with an architecture, and a version or release, as apt-get takes them.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~-]+|/[a-z0-9.-]+)?")


@dataclass(frozen=True)
class AptPackage:
    """The name of a Debian package, as apt-get install takes it."""

    def read(self, item: Item, problems: Problems) -> str | None:
        text = Text().read(item, problems)
        if text is not None and not _PACKAGE.fullmatch(text):
            hint = "Names look like libgl1, g++ or curl=7.88.1-10."
            problems.append(item.problem(f"{shortened(repr(text))} is not the name of a Debian package.", hint))
            return None
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^(?:{_PACKAGE.pattern})$"}


#: A device file, and where the container finds it if that is elsewhere.
_DEVICE = r"/dev/[\w-][\w/.-]*(?::/dev/[\w-][\w/.-]*)?"
#: The name of a volume (Docker's RestrictedNameChars).
_VOLUME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
DEVICES, VOLUME_NAME = Many(Text(pattern=_DEVICE)), Text(pattern=_VOLUME)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How an engine on a network is trusted, and trusts us. Paths on the machines of Airflow."""

    ca_cert: str | None = declared(Text(), "The certificate of who signed the engine's, a PEM file.")
    client_cert: str | None = declared(Text(), "Our certificate, a PEM file.")
    client_key: str | None = declared(Text(), "The key of our certificate, a PEM file.")
    verify: bool = declared(Flag(), "Check the engine's certificate.", True)


@dataclass(frozen=True, kw_only=True)
class Containers:
    """How the containers of a pool are shut in."""

    user: str | None = declared(Text(pattern=r"[\w.-]+(:[\w.-]+)?"), "user[:group] of jobs; the image's by default.")
    read_only: bool = declared(Flag(), "The image's files cannot be written; /tmp can.", False)
    cap_drop: tuple[str, ...] = declared(Many(), "Capabilities that are taken from jobs.", ("ALL",))
    cap_add: tuple[str, ...] = declared(Many(), "Capabilities that are given back.", ())
    no_new_privileges: bool = declared(Flag(), "Programs with setuid bits gain nothing.", True)


TLS = Record(Tls, "tls")
CONTAINERS = Record(Containers, "a pool's containers")
