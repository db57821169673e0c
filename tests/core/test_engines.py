"""Names of images, and URLs of engines."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.core.engines import wrong_image, wrong_url

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "name",
    [
        "python", "python:3.12-slim", "library/python", "registry.example/a/b:1", "registry.example:5000/a",
        "localhost/a",
        "localhost:5000/a/b:T_1.x", f"python@{DIGEST}", f"r.example:1/a:t@{DIGEST}", "a--b/c__d.e", "x:" + "t" * 128,
    ],
)  # fmt: skip
def test_names_of_images(name: str) -> None:
    assert wrong_image(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Python", "no capital letters"),
        ("-x", "not the name"),
        ("a:b:c", "more than one tag"),
        ("a:b:c:d", "more than one tag"),
        ("image:latest", "platform's own registry"),
        ("image:team/x:1", "platform's own registry"),
        ("x:" + "t" * 129, "not the name"),
        ("x:", "not the name"),
        ("x y", "not the name"),
        ("x;rm -rf", "not the name"),
        ("../x", "not the name"),
        ("python@sha256:12", "not the name"),
    ],
)
def test_what_is_no_name_of_an_image(name: str, said: str) -> None:
    found = wrong_image(name)
    assert found is not None
    assert said in found[0]


@pytest.mark.parametrize(
    "url",
    ["unix:///var/run/docker.sock", "tcp://10.0.0.1:2375", "tcp://[::1]:2376", "ssh://a", "ssh://me@a.example:24022"],
)
def test_urls_of_engines(url: str) -> None:
    assert wrong_url(url) == ""


@pytest.mark.parametrize("url", ["", "a", "http://a:1", "unix://x", "tcp://a:x", "tcp://a:1/path", "ssh://", "fd://"])
def test_what_is_no_url_of_an_engine(url: str) -> None:
    assert wrong_url(url)
