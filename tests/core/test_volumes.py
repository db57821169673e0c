"""Apolo's volumes: the whole grammar, its own texts, and what they mean here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.core.pool import Storage, WorkerPool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.support import storage_notes, unmountable
from airflow_jobdeploy.core.volumes import parse_volume, storage_path, storage_uri
from airflow_jobdeploy.errors import SpecError


@pytest.mark.parametrize(
    ("text", "path", "at", "read_only"),
    [
        ("storage:folder:/var/data", "folder", "/var/data", False),  # the seed's own three
        ("storage:neuro/public:/mnt/public:ro", "neuro/public", "/mnt/public", True),
        ("storage://neuro/public:/mnt/public:ro", "neuro/public", "/mnt/public", True),
        ("storage:dir:/mnt/data:rw", "dir", "/mnt/data", False),
        ("storage:/project/x:/mnt/data", "project/x", "/mnt/data", False),
        ("storage://cluster/org/project/path:/mnt", "cluster/org/project/path", "/mnt", False),
        ("storage::/mnt", "", "/mnt", False),
        ("storage:/:/mnt", "", "/mnt", False),
        ("storage:a%3Ab%23%3F%25:/mnt/c%3Ad", "a:b#?%", "/mnt/c:d", False),
        ("storage:it's a dir; rm -rf:/mnt/a b", "it's a dir; rm -rf", "/mnt/a b", False),
        ("storage:dönüt/数:/mnt/数", "dönüt/数", "/mnt/数", False),
        ("storage:a//b/./c/:/mnt//d/", "a/b/c", "/mnt/d", False),
        ("storage:100:/mnt", "100", "/mnt", False),
        ("storage:a~b:/mnt", "a~b", "/mnt", False),
    ],
)
def test_volumes(text: str, path: str, at: str, read_only: bool) -> None:
    found = parse_volume(text)
    assert (found.path, found.container_path, found.read_only) == (path, at, read_only)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("storage:dir", "Invalid volume specification 'storage:dir'"),
        ("storage:a:/b:ro:x", "Invalid volume specification 'storage:a:/b:ro:x'"),
        ("", "Invalid volume specification ''"),
        ("storage:dir:/mnt:rw2", "Wrong ReadWrite/ReadOnly mode spec for 'storage:dir:/mnt:rw2'"),
        ("storage:dir:/mnt:", "Wrong ReadWrite/ReadOnly mode spec for 'storage:dir:/mnt:'"),
        ("storage:a:b:/mnt", "Wrong ReadWrite/ReadOnly mode spec for 'storage:a:b:/mnt'"),
        ("HOME", "--volume=HOME no longer supported"),
        ("ALL", "--volume=ALL no longer supported"),
        ("dissk:a:/mnt", "Invalid scheme 'dissk:' (only 'storage:' is allowed)"),
        ("s3://bucket/x:/mnt", "Invalid scheme 's3:' (only 'storage:' is allowed)"),
        ("/a:/b:ro", "URI Scheme not specified. Please specify one of storage."),
        ("storage:a#b:/mnt", "Fragment part is not allowed in storage URI. Use '%23' to quote '#' in path."),
        ("storage:a#:/mnt", "Fragment part is not allowed in storage URI. Use '%23' to quote '#' in path."),
        ("storage:a?x=1:/mnt", "Query part is not allowed in storage URI. Use '%3F' to quote '?' in path."),
        ("storage://me@cluster/a:/mnt", "User is not allowed in storage URI."),
        ("storage:~/a:/mnt", "Cannot expand user for storage:~/a"),
        ("storage:~ann/a:/mnt", "Cannot expand user for storage:~ann/a"),
        ("storage://~ann/a:/mnt", "Cannot expand user for storage://~ann/a"),
        ("secret:key", "Invalid secret file specification 'secret:key'"),
        ("secret:key:/mnt/key:ro", "Invalid secret file specification 'secret:key:/mnt/key:ro'"),
        ("secret:key:/mnt/key", "name it in `secret_env`"),
        ("disk:d1:/mnt/disk", "give a folder of the pool's storage"),
        ("storage:../x:/mnt", "leaves its folder by '..'"),
        ("storage:a/%2e%2E/%2e%2e/x:/mnt", "leaves its folder by '..'"),
        ("storage:a%00b:/mnt", "holds a NUL character"),
        ("storage:%ff:/mnt", "is not UTF-8"),
        (f"storage:{'a' * 300}:/mnt", "too long"),
        ("storage:a:mnt", "the container path 'mnt' is not absolute"),
        ("storage:a:", "the container path '' is not absolute"),
        ("storage:a:/", "is the root of the file system"),
        ("storage:a:/mnt/../etc", "leaves its folder by '..'"),
    ],
)
def test_what_is_no_volume(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_volume(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("storage:../x", "leaves its folder by '..'"),
        ("storage:a#b", "Use '%23' to quote '#' in path."),
        ("storage:~/a", "Cannot expand user for storage:~/a."),
        (" ", "must not be empty."),
    ],
)
def test_a_dataset_in_the_storage_is_named_by_the_same_rules(location: str, said: str) -> None:
    with pytest.raises(SpecError, match="dataset_location") as caught:
        load_spec({"command": "x", "dataset_location": location})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("storage://:secret@cluster/a", "Password is not allowed in storage URI"),
        ("storage://cluster:80/a", "Port is not allowed in storage URI"),
    ],
)
def test_what_only_a_mapping_can_say_wrongly(uri: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_spec({"command": "x", "volumes": [{"storage_uri": uri, "container_path": "/mnt"}]})


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), max_size=4).map("/".join)


@given(paths.filter(lambda path: not path.startswith("~")))
def test_every_path_has_one_spelling_that_is_read_back(path: str) -> None:
    uri = storage_uri(path)
    assert storage_path(uri) == path
    assert parse_volume(f"{uri}:/mnt:ro").path == path


@given(st.text(max_size=60) | st.text(alphabet=":/.%2e~#?@ao", max_size=30).map("storage:".__add__))
def test_any_text_is_a_volume_below_the_root_or_a_sentence(text: str) -> None:
    try:
        found = parse_volume(text)
    except ValueError:
        return
    for path in (found.path, found.link):
        assert not path.startswith("/")
        assert not {"..", "."} & set(path.split("/"))
    assert parse_volume(f"{found.storage_uri}:/mnt").path == found.path


def problems(*volumes: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec({"command": "x", "volumes": list(volumes)})
    return [str(problem) for problem in caught.value.problems]


def test_as_a_field() -> None:
    text = "storage:a:/mnt/a:ro"
    mapping = {"storage_uri": "storage://a/", "container_path": "/mnt//a/", "read_only": True}
    one, other, alone = (load_spec({"command": "x", "volumes": given}).volumes for given in ([text], [mapping], text))
    assert one == other == alone
    assert (one[0].storage_uri, one[0].link) == ("storage:a", "mnt/a")


def test_all_problems_at_once() -> None:
    found = problems("storage:a:/mnt", "storage:b", 3, {"storage_url": "storage:c"}, "storage:d:/mnt/")
    assert found == [
        "<job_spec>: volumes[1]: Invalid volume specification 'storage:b'.",
        "<job_spec>: volumes[2]: expected a mapping (a volume), found a whole number 3.",
        "<job_spec>: volumes[3]: a volume needs 'storage_uri'. storage_uri: the folder: storage:dir.",
        "<job_spec>: volumes[3]: a volume needs 'container_path'. container_path: where the job sees it: /mnt/data.",
        "<job_spec>: volumes[3].storage_url: a volume has no field 'storage_url'. Did you mean 'storage_uri'?",
        "<job_spec>: volumes[4]: two volumes at /mnt. Remove one of them.",
    ]


def test_a_pool_without_storage_is_named_with_its_field() -> None:
    spec = load_spec({"command": "x", "volumes": ["storage:a:/mnt/a"]})
    [problem] = unmountable(spec, WorkerPool.of_connection("lab"))
    text = "<job_spec>: volumes: pool 'lab' has no storage. Add storage: {root: /a/folder/of/its/workers} to the pool."
    assert str(problem) == text
    assert unmountable(spec, WorkerPool.of_connection("lab", storage=Storage(root="/srv"))) == []


def test_one_inside_another_is_refused() -> None:
    volumes = ["storage:a:/mnt/a", "storage:b:/mnt/ab", "storage:c:/mnt/a/b/c", "storage:d:/mnt/a/b"]
    found = unmountable(load_spec({"command": "x", "volumes": volumes}), WorkerPool.local(storage=Storage(root="/srv")))
    assert [problem.message for problem in found] == [
        "the volume at /mnt/a/b would lie inside the one at /mnt/a.",
        "the volume at /mnt/a/b/c would lie inside the one at /mnt/a/b.",
    ]


def test_that_read_only_cannot_be_kept_is_said_once() -> None:
    volumes = ["storage:a:/mnt/a:ro", "storage:b:/mnt/b", "storage:c:/mnt/c:ro"]
    [note] = storage_notes(load_spec({"command": "x", "volumes": volumes}), WorkerPool.local())
    assert "the volumes at /mnt/a, /mnt/c are read-only by agreement" in note
    assert storage_notes(load_spec({"command": "x", "volumes": volumes[1:2]}), WorkerPool.local()) == []
