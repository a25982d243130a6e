"""Films of a store elsewhere: fetched, done, and what is made of them put there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from conftest import TIMES

from tabrt.commands.films import films, planned
from tabrt.commands.options import VideosOptions
from tabrt.commands.remote import is_remote
from tabrt.errors import TabrtError

fsspec = pytest.importorskip("fsspec", reason="needs the extra [cluster]")


@pytest.fixture
def store(clip: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """A bucket with two films in folders, and one that is none."""
    store = fsspec.filesystem("memory")
    for name in ("in/x/a.mp4", "in/b.mkv"):
        store.pipe_file(f"/bucket/{name}", clip.read_bytes())
    store.pipe_file("/bucket/in/bad.mp4", b"a film, honestly")
    store.pipe_file("/bucket/in/notes.txt", b"a note")
    yield store
    store.rm("/bucket", recursive=True)


def options(*names: str, **more) -> VideosOptions:
    return VideosOptions(sources=[f"memory://bucket/{name}" for name in names], **more)


def test_films_of_a_store_are_done_and_their_outputs_put_there(store, capsys: pytest.CaptureFixture):
    wanted = options(
        "in/", recursive=True, out="memory://bucket/drawn/", landmarks="memory://bucket/points/{name}.jsonl"
    )
    lines, problem = films(wanted)
    assert problem == "1 of 3 films failed, the others are done; see above"
    assert any("failed: memory://bucket/in/bad.mp4" in line for line in lines)
    made = [path for path in store.find("/bucket") if not path.startswith("/bucket/in/")]
    assert made == [
        *("/bucket/drawn/b.mkv", "/bucket/drawn/x/a.mp4", "/bucket/points/b.jsonl", "/bucket/points/x/a.jsonl"),
    ]
    assert b'"source":"memory://bucket/in/x/a.mp4"' in store.cat("/bucket/points/x/a.jsonl")
    with av.open(io.BytesIO(store.cat("/bucket/drawn/x/a.mp4"))) as film:
        assert sum(1 for _ in film.decode(video=0)) == len(TIMES)
    with pytest.raises(TabrtError, match="memory://bucket/drawn/b.mkv is there already"):
        planned(wanted)
    again = options("in/*.mkv", "in/x/a.mp4", landmarks="memory://bucket/points/x/{name}.jsonl", skip_finished=True)
    to_do, finished = planned(again)
    assert ([job.source for job in to_do], [job.source for job in finished]) == (
        *(["memory://bucket/in/b.mkv"], ["memory://bucket/in/x/a.mp4"]),
    )


def test_a_film_of_a_store_goes_to_a_file_here(store, tmp_path: Path):
    lines, problem = films(options("in/x/a.mp4", landmarks=str(tmp_path / "a.csv")))
    assert problem is None and lines[-1] == f"wrote {tmp_path / 'a.csv'}"
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + len(TIMES)


def test_no_name_in_a_store_leads_out_of_the_folder_for_outputs(store, tmp_path: Path):
    store.pipe_file("/bucket/keys/../../out.mp4", b"a film, honestly")
    to_do, _ = planned(options("keys/", recursive=True, landmarks=str(tmp_path / "points" / "deep")))
    assert [Path(job.landmarks).parent for job in to_do] == [tmp_path / "points" / "deep"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "memory://bucket/nothing.mp4",
            "cannot reach memory://bucket/nothing.mp4 .it is not there",
        ),
        ("nosuch://me:geheim@bucket/a.mp4", "cannot reach nosuch://bucket/a.mp4 .*nosuch"),
    ],
)
def test_what_cannot_be_reached_is_named(store, tmp_path: Path, name: str, problem: str):
    with pytest.raises(TabrtError, match=problem):
        films(VideosOptions(sources=[name], landmarks=str(tmp_path / "a.csv")))


def test_streams_and_files_are_read_as_they_come(tmp_path: Path):
    (tmp_path / "a:").mkdir()
    assert is_remote("s3://bucket/a.mp4") and is_remote("file:///films/a.mp4")
    for name in ("http://host/a.mp4", "RTSP://camera/1", "a.mp4", "-", "shots/%04d.png"):
        assert not is_remote(name)
