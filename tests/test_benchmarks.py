"""The benchmarks' arithmetic on signals whose lag, jitter and steps are known. No time is ever asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("matplotlib", reason="the benchmarks draw with matplotlib")

from benchmarks import moving_faces, scenes, signals
from benchmarks.__main__ import app
from benchmarks.contract import ROOT, Report, Timing, as_seen_from_here, markdown, page, taken, timed
from benchmarks.films import SIZES, make
from benchmarks.mesh_map import MeshMap
from benchmarks.one_euro import one_euro
from benchmarks.peer_environments import python_of
from benchmarks.peers import MESH_TO_68, Peer, film, open_peers, table
from benchmarks.pipeline import STAGES, judge
from benchmarks.stability import BLINKS, Track, blink_depth, euro, jitter_at, motion_of, ours, unfiltered
from tabrt.card import ModelCard
from tabrt.commands.bench import bench, milliseconds
from tabrt.detection import Detector
from tabrt.engines.engine import FakeEngine
from tabrt.errors import TabrtError
from tabrt.measures.head import HEAD

TIMES = np.arange(120) / 30
FACE = np.random.default_rng(0).uniform(100, 200, (68, 2))


def sine(times: np.ndarray) -> np.ndarray:
    return 20 * np.sin(2 * np.pi * 1.5 * times)


def track(shift: np.ndarray) -> np.ndarray:
    """The face, moved sideways by shift (T,)."""
    return FACE + np.stack([shift, np.zeros_like(shift)], axis=1)[:, None]


# Signals


@pytest.mark.parametrize("late", [-0.02, 0.0, 0.0123, 0.07])
def test_lag_is_found_between_frames_and_despite_noise(late):
    noise = np.random.default_rng(1).normal(0, 0.5, len(TIMES))
    assert signals.lag(TIMES, sine(TIMES - late), sine) == pytest.approx(late, abs=2e-4)
    assert signals.lag(TIMES, 0.7 * sine(TIMES - late) + noise, sine) == pytest.approx(late, abs=3e-3)


def test_jitter_and_shimmer_of_white_noise_are_its_deviation():
    noise = np.random.default_rng(2).normal(0, 0.5, (2000, 68, 2))
    expected = 0.5 * np.sqrt(2) / 100  # two coordinates
    assert signals.jitter(FACE + noise, 100) == pytest.approx(expected, rel=0.01)
    assert signals.shimmer(FACE + noise, 100) == pytest.approx(expected, rel=0.01)


def test_shimmer_does_not_see_slow_drift_and_jitter_does():
    drift = track(np.linspace(0, 10, len(TIMES)))
    assert signals.shimmer(drift, 100) < 0.001
    assert signals.jitter(drift, 100) > 0.02


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_the_motion_of_a_clip_is_read_back(kind):
    clip = scenes.motion(kind, 1.0, 1.0, 30)
    assert motion_of(clip.true(FACE), FACE, kind) == pytest.approx(clip.value(clip.times), abs=1e-6)


def test_a_step_tells_its_delay_and_overshoot():
    signal = np.array([0, 0, 0, 0.5, 0.8, 0.95, 1.2, 1.0, 1.0])
    assert signals.step_response(signal, 3) == (2, pytest.approx(0.2))
    assert signals.step_response(np.array([0.0, 1.0, 1.0]), 1) == (0, 0.0)


def eyes(openness: np.ndarray) -> np.ndarray:
    """A track of 68 points whose eyes are open as given."""
    points = np.repeat(FACE[None], len(openness), axis=0)
    for first in (36, 42):
        corners = np.array([[0, 0], [10, 0], [20, 0], [30, 0], [20, 0], [10, 0]], float)
        lift = np.array([0, -15, -15, 0, 15, 15])
        points[:, first : first + 6] = corners
        points[:, first : first + 6, 1] += openness[:, None] * lift
    return points


def test_a_blink_keeps_its_depth_or_loses_it():
    opened = np.full(len(TIMES), 0.3)
    opened[[40, 41]] = 0.05, 0.1
    opened[90] = 0.0
    opened[70] = 0.29  # no blink: noise
    at = [40 / 30 + 0.1, 70 / 30, 90 / 30, 99.0]  # the first is shown earlier than it was seen, the last not at all
    assert signals.openness(eyes(opened)) == pytest.approx(opened)
    depths = signals.blink_depths(opened, opened, TIMES, at)
    assert np.array(depths) == pytest.approx(np.array([[5 / 6, 1], [1, 1]]))
    half = 0.3 - (0.3 - opened) / 2
    for late in (half, np.roll(half, 3)):
        assert [kept for _, kept in signals.blink_depths(opened, late, TIMES, at)] == pytest.approx([0.5, 0.5])


def calm_face() -> Track:
    """A head at rest before the camera, with noise."""
    placed = np.add(HEAD, (0, 0, 0.6))
    points = placed[:, :2] / placed[:, 2:] * 554 + (319.5, 239.5)
    rng = np.random.default_rng(3)
    return Track(TIMES, points + rng.normal(0, 0.2, (len(TIMES), 98, 2)), np.full((len(TIMES), 98), 0.9))


def late(frames: int):
    return lambda track: np.concatenate([track.points[:1]] * frames + [track.points[: len(track.points) - frames]])


def test_lips_that_come_late_are_told_as_late_and_wrong():
    as_it_is = moving_faces.talk_figures(calm_face(), lambda track: track.points)
    assert all(row["lips"] == row["chin"] == 1 for row in as_it_is)
    assert np.abs([row["lag"] for row in as_it_is]).max() < 4
    for row in moving_faces.talk_figures(calm_face(), late(1))[1:]:
        assert row["lag"] == pytest.approx(1000 / 30, abs=4)
        assert row["lips"] > 5


def test_a_pose_that_comes_late_is_told_as_late():
    for frames in (0, 2):
        for row in moving_faces.pose_figures(calm_face(), late(frames) if frames else lambda t: t.points).values():
            assert row["1 Hz"] == pytest.approx(frames * 1000 / 30, abs=1.5)
            assert 0 < row["jitter"] < 0.5


def test_talk_in_a_clip_tells_lag_and_what_is_left_of_it():
    track, _ = moving_faces.talking(calm_face(), 0.05, 3)
    clip = moving_faces.Spoken("clip", track)

    def half(track: Track) -> np.ndarray:
        return (track.points + track.points.mean(axis=0)) / 2

    (row,) = moving_faces.spoken_figures([clip], half)
    assert row["left"] == pytest.approx(0.5, abs=0.03)
    assert row["lag"] == pytest.approx(0, abs=1)
    (row,) = moving_faces.spoken_figures([clip], late(1))
    assert row["lag"] == pytest.approx(1000 / 30, abs=2)


def test_the_blinks_of_the_film_are_looked_at_where_they_are():
    times = np.arange(0, 19.6, 1 / 24)
    opened = np.full(len(times), 0.3)
    for blink in BLINKS:
        opened[np.abs(times - blink).argmin()] = 0.1
    told = blink_depth(Track(times, eyes(opened)), unfiltered)
    assert told["blinks"] == len(BLINKS)
    assert (told["raw"], told["median"], told["least"]) == pytest.approx((200 / 3, 100, 100))
    assert blink_depth(Track(times, eyes(np.full(len(times), 0.3))), unfiltered)["blinks"] == 0


# Filters


def test_one_euro_calms_a_still_face_and_lags_behind_a_moving_one():
    noise = np.random.default_rng(3).normal(0, 0.3, (len(TIMES), 68, 2))
    still = Track(TIMES, FACE + noise)
    assert signals.jitter(euro()(still)[30:], 100) < 0.6 * signals.jitter(still.points[30:], 100)
    moving = one_euro(track(sine(TIMES)), TIMES)
    assert 0.001 < signals.lag(TIMES[15:], motion_of(moving, FACE, "translation")[15:], sine) < 0.1


def test_one_euro_smooths_the_same_in_seconds_at_any_frame_rate():
    fast = np.arange(0, 3, 1 / 120)
    slow = fast[::4]
    lags = [
        signals.lag(
            times[len(times) // 4 :],
            motion_of(one_euro(track(sine(times)), times), FACE, "translation")[len(times) // 4 :],
            sine,
        )
        for times in (fast, slow)
    ]
    assert lags[0] == pytest.approx(lags[1], abs=0.012)


def test_strength_zero_changes_nothing():
    points = np.random.default_rng(4).uniform(0, 300, (10, 98, 2))
    raw = Track(TIMES[:10], points, np.ones((10, 98)))
    assert (ours(0.0)(raw) == unfiltered(raw)).all()


def test_the_least_jitter_at_a_cost_is_read_off_the_curve():
    lags, jitters = [0, 10, 20], [1.0, 0.5, 0.6]
    assert jitter_at(lags, jitters, 5) == pytest.approx(0.75)
    assert jitter_at(lags, jitters, 30) == pytest.approx(0.5)
    assert jitter_at(lags, jitters, -1) == float("inf")


# Films and maps


def test_a_still_film_repeats_itself_and_its_noise_is_that_of_a_camera():
    clip, clean = scenes.still(0.2, 30), scenes.still(0.2, 30, noisy=False)
    first, again = (next(clip.frames()).image.astype(int) for _ in range(2))
    truth = next(clean.frames()).image.astype(int)
    assert (first == again).all()
    assert 1 < (first - truth).std() < 8


def test_a_moved_face_lies_where_the_truth_says():
    clip = scenes.motion("translation", 2.0, 0.3, 30)
    shifts = np.round(clip.value(clip.times)).astype(int)
    moved = scenes.Clip(clip.name, clip.times, clip.kind, lambda times: np.round(clip.value(times)), noisy=False)
    rest, frame = next(moved.frames()).image, list(moved.frames())[3].image
    assert shifts[3] != 0
    assert np.abs(np.roll(rest, shifts[3], axis=1)[:, 100:500].astype(int) - frame[:, 100:500]).max() <= 2


@pytest.mark.parametrize("faces", [0, 1, 4])
def test_a_film_has_its_size_and_length_and_shows_its_faces(tmp_path: Path, faces: int):
    from tabrt.film.reading import open_film

    with open_film(make(tmp_path / "f.mp4", SIZES["360p"], faces, 3)) as film:
        frames = list(film)
        assert (film.width, film.height, len(frames)) == (640, 360, 3)
    with closing(Detector()) as detector:
        assert len(detector(frames[0].image, 8, thorough=True)) == faces


def test_more_faces_than_one_must_cost_less_than_as_many_times_one():
    def row(faces: int, network: float) -> dict:
        stages = {**dict.fromkeys(STAGES, 1.0), "network": network}
        return {"size": "360p", "faces": faces, "milliseconds": stages}

    report = Report("pipeline", "quick", None, {"rows": [row(0, 0), row(1, 6.0), row(4, 16.0), row(8, 80.0)]}, [2])
    judge(report)
    assert report.wins == ["360p: 4 faces cost the tracker 2.00 times what one costs"]
    assert report.losses == ["360p: 8 faces cost the tracker 8.40 times what one costs"]


def test_a_linear_map_of_a_mesh_is_learned_in_any_pose():
    rng = np.random.default_rng(5)
    shape = rng.uniform(-1, 1, (468, 2))
    mesh = 100 * (shape + rng.normal(0, 0.05, (300, 468, 2)))
    turn = np.exp(1j * rng.uniform(-0.5, 0.5, 300)) * rng.uniform(0.5, 2, 300)
    target = mesh[:, MESH_TO_68] * 0.7 + 0.3 * mesh[:, MESH_TO_68 - 3]

    def posed(points: np.ndarray) -> np.ndarray:
        z = points @ (1, 1j) * turn[:, None]
        return np.stack([z.real + 200, z.imag + 50], axis=-1)

    learned = MeshMap.learn(posed(mesh)[:250], posed(target)[:250])
    error = np.abs(learned(posed(mesh)[250:]) - posed(target)[250:]).mean()
    assert error < 0.5 * np.abs(posed(mesh)[250:, MESH_TO_68] - posed(target)[250:]).mean()


# Peers

FAKE_WORKER = """
import sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
import peer_worker

def fake():
    films = [0]

    def run(image, time, box):
        print("what a library prints")
        if image.max() == 0:
            sys.exit(1)
        return [(float(image.mean()), -1.0 if time is None else time), (films[0], image.shape[1])], box

    def reset():
        films[0] += 1

    return run, reset

peer_worker.PEERS = {"mediapipe": fake}
peer_worker.main(sys.argv[2], int(sys.argv[3]))
"""


@pytest.fixture
def fake_peer(tmp_path: Path, monkeypatch):
    """The real worker and pipes, with a peer of our own in the place of MediaPipe."""
    (tmp_path / "worker.py").write_text(FAKE_WORKER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/worker.py "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr("benchmarks.peers.python_of", lambda name: python)
    with closing(Peer("mediapipe", 1)) as peer:
        yield peer


def test_a_peer_sees_pictures_frames_and_where_films_begin(fake_peer):
    image = np.full((4, 6, 3), 10, np.uint8)
    assert fake_peer(image).tolist() == [[10, -1], [0, 6]]
    assert fake_peer.seconds > 0
    fake_peer.start()
    assert fake_peer(image[:, ::-2], 0.25, box=(1, 2, 3, 4)).tolist() == [[10, 0.25], [1, 3]]
    assert fake_peer.box == [1, 2, 3, 4]


def test_a_peer_that_ends_names_the_remedy(fake_peer):
    with pytest.raises(TabrtError, match=r"python -m benchmarks\.peer_environments"):
        fake_peer(np.zeros((4, 6, 3), np.uint8))


def test_a_peer_without_an_environment_is_passed_over_with_the_remedy(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.python_of", lambda name: tmp_path / "nothing")
    notes: list[str] = []
    with ExitStack() as stack:
        assert open_peers(stack, 1, notes) == {}
    assert len(notes) == 3 and all("python -m benchmarks.peer_environments" in note for note in notes)


@pytest.mark.skipif(not python_of("mediapipe").is_file(), reason="made by python -m benchmarks.peer_environments")
def test_face_landmarker_gives_the_points_of_the_mesh_it_was_made_of():
    program = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import cv2, mediapipe, numpy, peer_worker
image = cv2.imread({str(scenes.PORTRAIT)!r})
run, _ = peer_worker.face_landmarker()
mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1)
found = mesh.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_face_landmarks[0].landmark
print(numpy.abs(numpy.subtract(run(image, None, None)[0], peer_worker._in_pixels(found, image))).max())
"""
    done = subprocess.run([python_of("mediapipe"), "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.01


def test_the_frames_shown_to_peers_have_a_face_in_the_middle():
    frame = film(1)[0]
    assert frame.image.shape == (480, 640, 3)
    with closing(Detector()) as detector:
        assert detector(frame.image, 1)[0].centre == pytest.approx((320, 280), abs=90)


def test_the_table_of_peers_takes_only_accounts_of_the_same_model(tmp_path: Path):
    timing = Timing.of([0.004])
    report = Report("peers", "quick", ModelCard(name="a"), {"milliseconds": {"1": {"tabrt": timing}}}, [1])
    report.folder = tmp_path
    row = {"set": "portraits", "method": "tabrt", "boxes": "tracker", "map": "to_68", "nme": 0.0391, "nme_inner": 0.03}
    for name, shown in (("a", True), ("b", False)):
        other = Report("accuracy", "quick", ModelCard(name=name), {"rows": [row]}, [1])
        other.folder = tmp_path
        other.write("")
        assert ("3.91" in table(report)) is shown


# Contract


def test_an_account_says_where_and_how_it_was_measured(tmp_path: Path):
    results = {"ms": Timing.of([0.001, 0.002, 0.003]), "none": float("inf"), "array": np.arange(2)}
    report = Report(
        "latency", "quick", ModelCard(name="m"), results, [2], losses=["slower than light"], folder=tmp_path
    )
    report.write(markdown(["", "ms"], [["a", results["ms"]], ["b", None]]))
    account = json.loads((tmp_path / "latency.json").read_text())
    assert account["format"] == "tabrt-benchmark"
    assert account["results"] == {
        "ms": {"median_ms": 2.0, "q1_ms": 1.5, "q3_ms": 2.5, "runs": 3},
        "none": None,
        "array": [0, 1],
    }
    assert {"cpu", "cores", "memory_gib", "gpu", "busy"} <= account["machine"].keys()
    assert account["versions"]["numpy"] == np.__version__
    assert account["model"]["name"] == "m"
    assert account["threads"] == [2]
    text = (tmp_path / "latency.md").read_text()
    assert "| a | 2.00 (1.50–2.50) |" in text and "| b | – |" in text and "- slower than light" in text
    assert page(account, "")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (str(ROOT / "benchmarks" / "results"), "benchmarks/results"),
        (str(ROOT.parent / "shared" / "faces"), "../shared/faces"),
        (f"--faces={ROOT.parent / 'shared'}", "--faces=../shared"),
        (str(Path("/somebodys/own/300W").absolute()), "…/300W"),
        (f"--out={Path('/somebodys/own/out').absolute()}", "--out=…/out"),
        *((plain, plain) for plain in ("accuracy", "--quick", "--model", "tab1-lite", "../shared/faces", "out")),
    ],
)
def test_an_account_tells_no_folder_of_the_machine(given: str, told: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "accuracy", given])
    assert as_seen_from_here(given) == told
    assert Report("accuracy", "smoke", None, {}, []).to_dict()["command"][-2:] == ["accuracy", told]


def test_other_work_is_noticed_before_the_start():
    taken.cache_clear()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            assert taken() > 0.7 / os.cpu_count()
        finally:
            other.kill()
            taken.cache_clear()


def test_timing_warms_up_and_synchronises_inside():
    calls = []
    timing = timed(lambda: calls.append("run"), 4, warmup=2, synchronise=lambda: calls.append("wait"))
    assert timing.runs == 4
    assert calls == ["run", "run", "wait", *["run", "wait"] * 4]


def test_the_papers_multiplications_are_counted():
    torch = pytest.importorskip("torch", reason="the network is torch's")
    assert torch
    from benchmarks.latency import multiplications
    from tabrt.network import TabConfig

    assert multiplications(TabConfig(hourglasses=1)) / 1e9 == pytest.approx(19.5, abs=0.1)
    assert multiplications(TabConfig(hourglasses=2)) / 1e9 == pytest.approx(25.1, abs=0.1)


def test_bench_times_an_engine_and_names_the_papers_figure(monkeypatch):
    fake = FakeEngine(np.full((98, 2), 100.0), ModelCard(name="fake", hourglasses=2))
    monkeypatch.setattr("tabrt.commands.bench.load_engine", lambda *_: fake)
    lines = list(bench(runs=2))
    assert [line.split()[0] for line in lines[3:7]] == ["1", "2", "4", "8"]
    assert "27 ms" in lines[-1] and "2 hourglasses" in lines[-1]
    one = FakeEngine(np.full((98, 2), 100.0), ModelCard(name="fake", hourglasses=1))
    monkeypatch.setattr("tabrt.commands.bench.load_engine", lambda *_: one)
    lines = list(bench(threads=1, runs=2))
    assert "1 thread of the CPU" in lines[0] and "1 hourglass," in lines[-1]
    lower, median, upper = milliseconds(fake, 1, 3)
    assert 0 < lower <= median <= upper


def test_a_gpu_slower_than_the_paper_fails_the_command_and_a_cpu_does_not(monkeypatch):
    pytest.importorskip("torch", reason="the network is torch's")
    from benchmarks import gpu, latency

    def row(milliseconds: float, **more) -> dict:
        return {"hourglasses": 1, "precision": "fp16", "milliseconds": Timing.of([milliseconds / 1e3]), **more}

    cpu = row(99.0, batch=1, threads=2, engine="onnxruntime", build="tab1", width="full") | {"precision": "fp32"}
    report = Report("latency", "quick", None, {"rows": [cpu]}, [2])
    latency.judge(report)
    assert (len(report.failed), len(report.losses)) == (0, 1)
    card = {"device": "RTX A", "engine": "TensorRT", "build": "tab", "width": "full", "batch": 1, "shift": None}
    for one, two, failed in ((16.0, 26.0, 0), (18.0, 26.0, 1), (18.0, 28.0, 2)):
        rows = [row(one, **card), {**row(two, **card), "hourglasses": 2}, row(99.0, **card)]
        report = Report("gpu", "quick", None, {"device": "RTX A", "rows": rows}, [])
        gpu.judge(report)
        assert (len(report.failed), len(report.wins)) == (failed, 2 - failed)
        monkeypatch.setattr("benchmarks.__main__.measure", lambda *_, report=report: not report.failed)
        assert CliRunner().invoke(app, ["gpu", "--smoke"]).exit_code == min(failed, 1)


# On a GPU, by stand-ins


def test_a_card_is_warm_when_its_times_agree_and_not_before():
    pytest.importorskip("torch", reason="the network is torch's")
    from benchmarks import gpu

    now = [0.0]

    def taking(milliseconds):
        def call() -> None:
            now[0] += next(milliseconds) / 1e3

        return call

    def clock() -> float:
        return now[0]

    rising = iter([*np.linspace(30, 10, 200), *[10.0] * 10_000])  # a clock that goes up for four seconds
    assert gpu.warm_up(taking(rising), 2.0, clock)
    assert now[0] > 4.0
    restless = iter([10.0, 20.0, 40.0, 15.0, 80.0, 9.0, 33.0] * 100_000)
    now[0] = 0.0
    assert not gpu.warm_up(taking(restless), 2.0, clock)
    assert now[0] == pytest.approx(gpu.PATIENCE, abs=1)


def _gpu_row(**changes) -> dict:
    row = {
        "device": "RTX A", "engine": "TensorRT", "precision": "fp16", "build": "tab1", "weights": "random weights",
        "hourglasses": 1, "width": "full", "ready_s": 90.0, "shift": None, "batch": 1,
        "network": Timing.of([0.002]), "milliseconds": Timing.of([0.003]), "faces_per_second": 333.0,
        "memory_mib": 700.0, "before": None, "after": "1800 MHz, 90 of 170 W, 55 °C",
    }  # fmt: skip
    return {**row, **changes}


def test_every_row_of_the_gpus_page_names_the_device_and_stands_beside_the_paper():
    pytest.importorskip("torch", reason="the network is torch's")
    from benchmarks import gpu

    shift = {"worst": 0.2, "nearly": 0.1, "median": 0.01, "objection": None}
    rows = [_gpu_row(), _gpu_row(batch=8, faces_per_second=1500.0), _gpu_row(hourglasses=2, build="tab2", shift=shift)]
    text = gpu.table(Report("gpu", "full", None, {"device": "RTX A", "rows": rows}, []))
    cells = [line for line in text.splitlines() if line.startswith("|") and "--:" not in line]
    data = [line for line in cells if not line.startswith(("| one face", "| faces a second", "| float16", "|  |"))]
    assert all("RTX A" in line for line in data if "paper" not in line)
    assert "| paper, TITAN X, full | 17.00 | 27.00 |" in text
    assert "| RTX A, full, TensorRT fp16, network | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) |" in text
    assert "1800 MHz, 90 of 170 W" in text


def test_half_precision_that_moves_points_fails_the_gpus_page_and_a_missing_build_does_too():
    pytest.importorskip("torch", reason="the network is torch's")
    from benchmarks import gpu

    shift = {"worst": 3.0, "nearly": 2.0, "median": 0.1, "objection": "fp16 moves points"}
    report = Report("gpu", "full", None, {"device": "RTX A", "rows": [_gpu_row(shift=shift)]}, [])
    gpu.judge(report)
    assert [line.split(":")[0] for line in report.failed] == ["tab1, TensorRT", "RTX A"]
    on_cpu = Report("gpu", "smoke", None, {"device": "CPU", "rows": [_gpu_row(device="CPU")]}, [])
    gpu.judge(on_cpu)
    assert on_cpu.failed == []


def test_a_way_that_cannot_be_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("torch", reason="the network is torch's")
    from benchmarks import gpu
    from benchmarks.gpu_runners import CpuDevice, Runner

    closed = []

    def working(checkpoint, device, precision):
        return Runner(FakeEngine(np.full((98, 2), 100.0)), None, lambda: closed.append(precision))

    def broken(checkpoint, device, precision):
        raise RuntimeError("CUDA out of memory\nmore")

    monkeypatch.setattr(gpu, "RUNNERS", {"works": working, "breaks": broken})
    monkeypatch.setattr(gpu, "_shift", lambda *_: None)
    notes: list[str] = []
    rows = list(gpu._rows("smoke", CpuDevice(), tmp_path, notes))
    assert {(row["engine"], row["precision"], row["batch"]) for row in rows} == {
        ("works", precision, batch) for precision in ("fp32", "fp16") for batch in (1, 2)
    }
    assert closed == ["fp32", "fp16"]
    assert [note for note in notes if "breaks" in note] == [
        f"tab1-lite, breaks, {precision}: left out (RuntimeError: CUDA out of memory)" for precision in ("fp32", "fp16")
    ]
