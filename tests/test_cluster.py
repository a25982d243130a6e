"""Films on the workers of a cluster: two processes of this machine with a real scheduler between."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CLIP, TIMES

from tabrt.commands import cluster as clusters
from tabrt.commands.cluster import anywhere, cluster_runner
from tabrt.commands.films import films
from tabrt.commands.jobs import Outcome
from tabrt.commands.options import VideoOptions, VideosOptions
from tabrt.commands.progress import Standing
from tabrt.errors import TabrtError
from tabrt.sinks import landmark_lines

distributed = pytest.importorskip("distributed", reason="needs the extra [cluster]")


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """Two workers, each a process under a nanny that starts it anew when it dies."""
    quiet = {"silence_logs": 50, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
        yield cluster


class Watch:
    """What is told of jobs."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()
        self.standings: list[tuple[int, Standing]] = []

    def __call__(self, number: int, now: Standing | None) -> None:
        if now is None:
            self.begun[number] += 1
        else:
            self.standings.append((number, now))


def on_cluster(jobs: list[VideoOptions], watch: Watch, address: str) -> Iterator[Outcome]:
    with cluster_runner(address) as run:
        yield from run(jobs, watch)


def lines_in(path: Path) -> int:
    return len(list(landmark_lines(path))) - 1


def jobs_in(folder: Path, films: dict[str, Path], end: str | None = "3") -> list[VideoOptions]:
    jobs = []
    for name, film in films.items():
        shutil.copy(film, folder / f"{name}.mp4")
        points = str(folder / f"{name}.jsonl")
        jobs.append(VideoOptions(source=str(folder / f"{name}.mp4"), landmarks=points, end=end, overwrite=True))
    return jobs


def kill_who_writes(path: Path, workers: list[int]) -> bool:
    """Kill the process that has written some of a file and goes on, if there is one."""
    if not path.exists() or path.read_bytes().count(b"\n") < 10:
        return False
    for worker in workers:
        with contextlib.suppress(OSError):
            if str(path) in map(os.path.realpath, Path(f"/proc/{worker}/fd").iterdir()):
                os.kill(worker, signal.SIGKILL)
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes where Linux shows them")
def test_the_film_of_a_lost_worker_is_done_again_and_no_other(cluster, clip: Path, tmp_path: Path):
    jobs = jobs_in(tmp_path, {"long": CLIP, "b": clip, "c": clip, "d": clip})
    killed: list[bool] = []

    class Killing(Watch):
        def __call__(self, number: int, now: Standing | None) -> None:
            super().__call__(number, now)
            if not any(killed):
                killed.append(
                    kill_who_writes(tmp_path / "long.jsonl", [worker.pid for worker in cluster.workers.values()])
                )

    watch = Killing()
    outcomes = {outcome.number: outcome for outcome in on_cluster(jobs, watch, cluster.scheduler_address)}
    assert any(killed)
    assert [outcomes[number].problem for number in range(4)] == [None] * 4
    assert watch.begun == {0: 2, 1: 1, 2: 1, 3: 1}
    assert lines_in(tmp_path / "long.jsonl") == outcomes[0].summary.frames > 60
    assert [lines_in(tmp_path / f"{name}.jsonl") for name in "bcd"] == [len(TIMES)] * 3
    assert any(number == 0 and now.total for number, now in watch.standings)


@pytest.mark.slow
def test_jobs_are_broken_off_with_their_files_closed(cluster, tmp_path: Path):
    jobs = jobs_in(tmp_path, {"a": CLIP}, end=None)  # long enough to be broken off, however fast the machine
    coming = on_cluster(jobs, (watch := Interrupted()), cluster.scheduler_address)
    with pytest.raises(KeyboardInterrupt):
        next(coming)
    coming.close()
    data = (tmp_path / "a.jsonl").read_bytes()
    time.sleep(2)
    assert (tmp_path / "a.jsonl").read_bytes() == data and data.endswith(b"\n")
    assert watch.standings and data.count(b"\n") < 400


class Interrupted(Watch):
    def __call__(self, number: int, now: Standing | None) -> None:
        super().__call__(number, now)
        if now is not None:
            raise KeyboardInterrupt


def test_a_worker_of_another_version_is_named(cluster, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "__version__", "0.0.1")
    (outcome,) = on_cluster(jobs_in(tmp_path, {"a": clip}), Watch(), cluster.scheduler_address)
    assert "0.0.1 gives the jobs; install the same" in outcome.problem
    assert not (tmp_path / "a.jsonl").exists()


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "PATIENCE", 0.5)
    with pytest.raises(TabrtError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 "):
        next(on_cluster([], Watch(), "tcp://127.0.0.1:9"))
    with pytest.raises(TabrtError, match="no Dask scheduler answers at nonsense://"):
        next(on_cluster([], Watch(), "nonsense://"))


def test_where_no_scheduler_answers_no_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "PATIENCE", 0.5)
    places = {name: str(tmp_path / name) + "/" for name in ("out", "landmarks", "crops")}
    with pytest.raises(TabrtError, match="no Dask scheduler answers"):
        films(VideosOptions(sources=[str(CLIP)], cluster="tcp://127.0.0.1:9", **places))
    assert not list(tmp_path.iterdir())


def test_a_scheduler_is_asked_once(cluster, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    client = clusters._client
    monkeypatch.setattr(clusters, "_client", lambda address: asked.append(address) or client(address))
    points = str(tmp_path / "points.jsonl")
    _, problem = films(VideosOptions(sources=[str(clip)], landmarks=points, cluster=cluster.scheduler_address))
    assert problem is None and lines_in(Path(points)) == 16 and asked == [cluster.scheduler_address]


def test_a_scheduler_that_is_lost_is_told_in_words():
    lost = distributed.client.FutureCancelledError("tabrt-1", "scheduler-connection-lost")
    assert clusters._lost(lost).startswith("the scheduler was lost; start it again")
    killed = distributed.scheduler.KilledWorker("tabrt-1", None, 3)
    assert clusters._lost(killed).startswith("all workers that had it were lost")


def test_paths_are_those_of_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.onnx").touch()
    job = anywhere(VideoOptions(source="a.mp4", out="b.mp4", model="mine.onnx", fov="60", measures=True))
    assert (job.source, job.out, job.model, job.fov) == (
        *(f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4", f"{tmp_path}/mine.onnx", "60"),
    )
    job = anywhere(VideoOptions(source="http://host/a.mp4", landmarks="b.csv", model="tab1-lite"))
    assert (job.source, job.model) == ("http://host/a.mp4", "tab1-lite")
