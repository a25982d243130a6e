"""A teacher and its pupils on one card: what is made there, and a short lesson on the CPU."""

from __future__ import annotations

import queue
import weakref

import numpy as np
import pytest
import torch
from small_network import random_checkpoint
from synthetic_faces import drawn_faces
from typer.testing import CliRunner

from tabrt.errors import TabrtError
from tabrt.heatmaps import render_boundaries
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import load_checkpoint
from tabrt.topology import WFLW98
from training import card
from training.batches import known_boundaries, scaled
from training.card import Learner, Pool, Schoolroom, boundary_maps, distance_from, sized, teach_all, varied
from training.commands import app
from training.recipes import RECIPES, with_shares

TINY = {"stem": "slim", "channels": 8, "balt_channels": 2}


def some_points() -> np.ndarray:
    points = drawn_faces(5).points.astype(np.float32) * 0.8
    points[1, 10:50] = np.nan  # some are unlabelled
    points[2] = np.nan  # no face
    points[3] -= 90  # half outside
    return points


@pytest.mark.parametrize("size", [64, 48])
def test_boundary_maps_are_those_of_the_loader(size):
    points = some_points()
    maps, known = boundary_maps(torch.from_numpy(points), WFLW98.boundary_lines, size)
    for own, told, face in zip(maps.numpy(), known.numpy(), points, strict=True):
        np.testing.assert_allclose(own, render_boundaries(face, WFLW98.boundary_lines, size=size), atol=2e-3)
        np.testing.assert_array_equal(told, known_boundaries(face, WFLW98))


def test_points_stay_on_what_they_mark():
    left, right = 60, int(WFLW98.mirror[60])
    points = np.full((64, 98, 2), np.nan, np.float32)
    points[:, left], points[:, right] = (100, 110), (150, 140)
    crops = np.zeros((64, 256, 256, 3), np.uint8)
    for (x, y), light in (((100, 110), 255), ((150, 140), 120)):
        crops[:, y - 4 : y + 5, x - 4 : x + 5] = light
    torch.manual_seed(0)
    pixels, moved = (part.numpy() for part in varied(torch.from_numpy(crops), torch.from_numpy(points), WFLW98, False))
    mirrored = 0
    for picture, marks in zip(pixels, moved, strict=True):
        found = {}
        for point in (left, right):
            x, y = np.round(marks[point]).astype(int)
            near = picture[y - 9 : y + 10, x - 9 : x + 10, 1].astype(float)
            ys, xs = np.nonzero(near > 0.5 * near.max())
            assert np.hypot(xs.mean() + x - 9 - marks[point, 0], ys.mean() + y - 9 - marks[point, 1]) < 0.8
            found[point] = near.max()
        mirrored += found[left] < found[right]
    assert 16 < mirrored < 48
    assert len({tuple(np.round(marks[left], 3)) for marks in moved}) > 30


def test_a_smaller_crop_is_that_of_the_loader():
    faces = drawn_faces(1)
    crop, points = faces.read(0)[:256, :256].copy(), (faces.points[0] * 0.8).astype(np.float32)
    pixels, marks = sized(torch.from_numpy(crop)[None], torch.from_numpy(points)[None], 192)
    expected, places = scaled(crop, points, 192)
    assert np.abs(pixels[0].numpy().astype(int) - expected).mean() < 1
    np.testing.assert_allclose(marks[0].numpy(), places, atol=1e-4)


@pytest.mark.parametrize("size", [64, 48])
def test_a_pupil_is_nearest_that_says_what_its_teacher_says(size):
    torch.manual_seed(0)
    teacher = 5 * torch.randn(2, 3, 64, 64)
    shares = torch.softmax(teacher.flatten(2), 2).view(teacher.shape)
    if size != 64:
        shares = torch.nn.functional.interpolate(shares, (size, size), mode="bilinear", antialias=True)
    face = torch.tensor([True, True])
    same = distance_from(teacher, shares.log(), face)
    for other in (torch.zeros(2, 3, size, size), shares.log().roll(1, dims=3), 2 * shares.log()):
        assert same < distance_from(teacher, other, face)
    halves = [distance_from(teacher, torch.zeros(2, 3, size, size) + shares.log() * on, face) for on in (0.0, 1.0)]
    assert halves[1] < halves[0]
    spoilt = torch.cat([shares.log()[:1], torch.full((1, 3, size, size), 7.0)])
    assert distance_from(teacher, spoilt, torch.tensor([True, False])) == pytest.approx(
        float(distance_from(teacher[:1], spoilt[:1], face[:1])), rel=1e-5
    )


def test_the_latest_crops_take_the_place_of_the_oldest():
    pool = Pool(130, 98, torch.device("cpu"))
    for number in range(3):
        pool.put(torch.full((64, 256, 256, 3), number, dtype=torch.uint8), torch.full((64, 98, 2), float(number)))
    crops, points = pool.draw(500)
    assert set(crops[:, 0, 0, 0].tolist()) == {1, 2}
    assert torch.equal(crops[:, 0, 0, 0].float(), points[:, 0, 0])


def test_a_teacher_and_its_pupils_learn_and_are_left_as_checkpoints(tmp_path):
    def learner(name: str, **changes) -> Learner:
        torch.manual_seed(0)
        return Learner(name, Tab(TabConfig(**{**TINY, "hourglasses": 1, **changes})), 2e-3)

    told: list[str] = []
    recipe = with_shares(RECIPES["settle"], [])
    sets = {"human": drawn_faces(8)}
    room = Schoolroom(
        sets, recipe, tmp_path, torch.device("cpu"), workers=1, pool_size=64, batch=4, save_every=0, say=told.append
    )
    teach_all(room, learner("wide"), [learner("narrow"), learner("small", crop_size=192)], (3, 3))
    for name in ("wide", "narrow", "small"):
        network, card = load_checkpoint(tmp_path / f"{name}.safetensors")
        assert card.figures["faces_seen"] >= 4 and "human" in card.training_data
        before = learner(name, crop_size=card.crop_size).model.state_dict()
        assert any(not torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert list(tmp_path.glob("wide-*s.safetensors"))
    assert any("wide:" in line for line in told) and any("narrow, small:" in line for line in told)
    assert told[-2:] == [f"checkpoint: {tmp_path / name}.safetensors" for name in ("narrow", "small")]
    assert f"checkpoint: {tmp_path / 'wide.safetensors'}" in told


def test_a_network_of_another_scheme_is_refused(tmp_path):
    other = random_checkpoint(tmp_path, topology="300w68")
    result = CliRunner().invoke(app, ["teach", "--teacher", str(other), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, TabrtError) and "300w68" in str(result.exception)


def test_networks_of_one_name_would_be_written_over_each_other(tmp_path):
    best = []
    for run in ("wide", "narrow"):
        (tmp_path / run).mkdir()
        best.append(str(random_checkpoint(tmp_path / run).rename(tmp_path / run / "best.safetensors")))
    words = ["teach", "--teacher", best[0], "--pupils", best[1], "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, TabrtError) and "give them different ones" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_taken_back_at_half_the_rate():
    torch.manual_seed(0)
    learner = Learner("one", Tab(TabConfig(**TINY, hourglasses=1)), 1e-3)
    learner.begin(RECIPES["settle"], torch.device("cpu"))
    assert learner.sound()
    with torch.no_grad():
        next(learner.model.parameters()).fill_(float("nan"))
    assert not learner.sound()
    assert learner.sound() and learner.slower == 0.5


def test_weights_that_are_not_finite_at_the_end_are_not_what_is_kept(monkeypatch, tmp_path):
    def spoil(learner: Learner, lesson, share, number) -> torch.Tensor:
        with torch.no_grad():
            next(learner.model.parameters()).fill_(float("nan"))
        learner.average.update(number)
        return torch.zeros(3)

    monkeypatch.setattr(Learner, "step", spoil)
    torch.manual_seed(0)
    learner = Learner("one", Tab(TabConfig(**TINY, hourglasses=1)), 1e-3)
    told: list[str] = []
    room = Schoolroom({}, RECIPES["settle"], tmp_path, torch.device("cpu"), 1, batch=4, say=told.append)
    room.pool, room.made = Pool(64, 98, torch.device("cpu")), queue.Queue()
    room.pool.put(torch.zeros((64, 256, 256, 3), dtype=torch.uint8), torch.zeros((64, 98, 2)))
    room.teach([learner], seconds=0)
    network, _ = load_checkpoint(tmp_path / "one.safetensors")
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert "one: not finite at the end; the last sound weights are kept" in told


def test_a_full_card_is_given_back_what_a_larger_step_took(monkeypatch, tmp_path):
    held: list[int] = []
    learners = [Learner(name, Tab(TabConfig(**TINY, hourglasses=1)), 1e-3) for name in ("one", "two")]

    class Full:
        """A stand-in for a graph, of which a card holds two of 64 crops or less."""

        def __init__(self, function, inputs):
            if len(inputs[0]) > 64 and len(held) == 1:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            held.append(len(inputs[0]))
            weakref.finalize(self, held.remove, len(inputs[0]))

    monkeypatch.setattr(card, "Graph", Full)
    told: list[str] = []
    room = Schoolroom({}, RECIPES["settle"], tmp_path, torch.device("cuda"), 1, batch=128, say=told.append)
    room.pool = Pool(128, 98, torch.device("cpu"))
    room.pool.put(torch.zeros((64, 256, 256, 3), dtype=torch.uint8), torch.zeros((64, 98, 2)))
    for learner in learners:
        learner.begin(RECIPES["settle"], torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append(f"{len(held)} held"))
    room._prepare(learners, None)
    assert held == [64, 64] and room.batch == 64
    assert "0 held" in told
