"""`client.parse`: texts of Apolo's command line -> values. ValueError in Apolo's words where it has some."""

from __future__ import annotations

from airflow_jobdeploy.core import volumes
from airflow_jobdeploy.core.engines import wrong_image
from airflow_jobdeploy.hooks.apolo.values import RemoteImage, Volume


class Parser:
    """Reads the texts in which images and volumes are written."""

    def volume(self, text: str) -> Volume:
        """`storage:folder:/var/data[:ro|rw]`."""
        found = volumes.parse_volume(text)
        return Volume(storage_uri=found.storage_uri, container_path=found.container_path, read_only=found.read_only)

    def remote_image(self, text: str) -> RemoteImage:
        """`[registry/]name[:tag][@digest]`; without tag and digest the tag is `latest`."""
        wrong = wrong_image(text)
        if wrong is not None:
            raise ValueError(" ".join(wrong))
        rest, _, digest = text.partition("@")
        place, slash, last = rest.rpartition("/")
        last, _, tag = last.partition(":")
        path = f"{place}{slash}{last}"
        registry, slash, name = path.partition("/")
        if not slash or not (set(registry) & set(".:") or registry == "localhost"):
            registry, name = "", path
        return RemoteImage(
            name=name, tag=tag or (None if digest else "latest"), registry=registry or None, digest=digest or None
        )
