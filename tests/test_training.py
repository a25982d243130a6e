"""The training loop, its batches, losses and files, on networks small enough for a test."""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import full_disk
from synthetic_faces import drawn_faces, real_faces
from typer.testing import CliRunner

from tabrt.engines.engine import check_crops
from tabrt.errors import TabrtError
from tabrt.geometry import CROP_SIZE
from tabrt.heatmaps import decode, render, render_boundaries, render_logits
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import load_checkpoint
from tabrt.network.tab import normalise
from tabrt.topology import BOUNDARY_MIRROR, WFLW98, to_68
from training import loop
from training.augment import PAPER, STRONG, Augmentation, training_crop
from training.batches import Crops, Plan, collate, known_boundaries
from training.checkpointing import identity, pack
from training.commands import app
from training.datasets import parse_sources, training_sets
from training.journal import Journal
from training.loop import joined, learning_rate, train
from training.losses import Objective, boundary_mse, faceless, landmark_cross_entropy, landmark_mse
from training.metrics import eye_distance, nme
from training.recipes import RECIPES, Phase, Recipe, changed, with_shares
from training.relabel import mean_points, with_labels, write_labels
from training.validation import NetworkEngine
from training.weaknesses import Trial

TINY = TabConfig(hourglasses=1, stem="slim", channels=8, balt_channels=2)
STILL = Augmentation(flip=0, rotate=0, scale=0, cover=0, brightness=0)
ROOT = Path(__file__).parents[1]


def recipe(steps: int = 6, batch: int = 4, **changes) -> Recipe:
    phases = (Phase("all", samples=steps * batch, learning_rate=1e-3, warmup=2),)
    values = {
        "name": "test", "phases": phases, "width": "lite", "augmentation": STRONG, "loss": "cross-entropy",
        "batch": batch, "optimiser": "adamw", "boundary_weight": 30.0, "distance_weight": 0.3, "averaging": 0.9,
    }  # fmt: skip
    return Recipe(**{**values, **changes})


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out: Path, what: Recipe | None = None, **changes) -> Path:
    faces = drawn_faces(8)
    options = {"workers": 0, "validate_every": 3, "save_every": 2, **changes}
    return train(TINY, what or recipe(), {"drawn": faces}, [Trial("drawn", faces.subset(np.arange(2)))], out, **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The loop


def test_a_short_run_that_is_stopped_before_its_first_validation_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    add = Journal.add

    def stopped_in(last: int) -> str:
        def interrupted(self, step, *rest):
            if step == last:
                raise KeyboardInterrupt
            add(self, step, *rest)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Journal, "add", interrupted)
            run(tmp_path, recipe(steps=8), validate_every=None, save_every=200)
        return capsys.readouterr().out

    assert "stopped; the same command begins anew, for nothing was saved yet" in stopped_in(2)
    assert "stopped; the same command goes on with phase 1 after step 4" in stopped_in(5)
    assert "goes on with phase 1 after step 4" in stopped_in(6)  # before it has saved anything more
    run(tmp_path, recipe(steps=8), validate_every=None, save_every=200)
    assert "resuming phase 1 after step 4" in capsys.readouterr().out


def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    add = Journal.add

    def interrupted(self, step, *rest):
        if step == 5:
            raise KeyboardInterrupt
        add(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "halves")
    run(tmp_path / "halves")
    for name in ("best.safetensors", "last.safetensors"):
        assert same(weights(tmp_path / "whole" / name), weights(tmp_path / "halves" / name))
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "halves/log.csv").read_text()


def test_a_run_leaves_checkpoints_a_log_curves_and_samples(tmp_path):
    best = run(tmp_path)
    model, card = load_checkpoint(best)
    assert model.config == TINY and "drawn (8 faces)" in card.training_data and card.figures["validation_nme"] > 0
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"] and float(rows[-1]["landmarks"]) > 0
    assert min(float(row["validation"]) for row in rows) == card.figures["validation_nme"]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "samples").glob("*.jpg"))) == 2


def test_each_weakness_has_its_number_in_the_log_and_the_mean_chooses(tmp_path):
    faces = drawn_faces(8)
    trials = [Trial("plain", faces.subset(np.arange(2))), Trial("round", faces.subset(np.arange(2, 4)), "round")]
    best = train(TINY, recipe(), {"drawn": faces}, trials, tmp_path, workers=0, validate_every=3)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        plain, turned = float(row["validation_plain"]), float(row["validation_round"])
        assert float(row["validation"]) == pytest.approx((plain * turned) ** 0.5) and plain != turned
    figures = load_checkpoint(best)[1].figures
    assert figures["validation_nme"] == pytest.approx(min(float(row["validation"]) for row in rows))
    assert figures["validation_round"] > 0
    assert load_checkpoint(tmp_path / "last.safetensors")[1].figures == {"faces_seen": 24}


def test_the_estimator_is_frozen_in_the_second_phase_with_its_batch_normalisation(tmp_path):
    phase = {"epochs": 2, "learning_rate": 1e-3, "milestones": (1,)}
    what = dataclasses.replace(
        RECIPES["paper"], phases=(Phase("scbe", **phase), Phase("balt", **phase)), batch=4, imagenet_stem=False
    )
    run(tmp_path, what)
    first, last = weights(tmp_path / "phase1.safetensors"), weights(tmp_path / "last.safetensors")
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved and all(name.startswith("balt.") for name in moved)
    assert any(name.endswith("running_mean") for name in moved)
    _, card = load_checkpoint(tmp_path / "best.safetensors")
    assert card.decoding == "gaussian"


def test_the_first_phase_leaves_the_transform_alone():
    objective = Objective(Tab(TINY), recipe(loss="mse"), "scbe")
    loss, *_ = objective(*batch_of(2))
    loss.backward()
    assert all(parameter.grad is None for parameter in objective.model.balt.parameters())
    assert all(parameter.grad is not None for parameter in objective.model.scbe.parameters())


def test_a_full_disk_in_mid_save_leaves_the_last_good_state(tmp_path):
    run(tmp_path, recipe(steps=2))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    with full_disk(4096):
        with pytest.raises(TabrtError, match=r"cannot write .*free some space"):
            loop.save_state(tmp_path / "state.pt", {"big": torch.zeros(100_000)})
        with pytest.raises(TabrtError, match="cannot write"):
            loop.save_checkpoint(
                tmp_path / "best.safetensors", Tab(TINY), load_checkpoint(tmp_path / "best.safetensors")[1]
            )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    run(tmp_path, recipe(steps=2))  # resumes, and has nothing left to do


def test_the_state_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    run(tmp_path, recipe(steps=2))
    with pytest.raises(TabrtError, match=r"another run .seed: 0, not 1.; choose another --out"):
        run(tmp_path, recipe(steps=2), seed=1)
    with pytest.raises(TabrtError, match=r"recipe, boundary_weight: 30.0, not 1.0"):
        run(tmp_path, recipe(steps=2, boundary_weight=1.0))
    with pytest.raises(TabrtError, match=r"recipe, phases, 1, samples: 8, not 40\); choose another --out"):
        run(tmp_path, recipe(steps=10))
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:1000])
    with pytest.raises(TabrtError, match=r"damaged.*start anew"):
        run(tmp_path, recipe(steps=2))


class Planted:
    def __reduce__(self):
        return (print, ("code in a state file has run",))


def test_a_state_file_cannot_run_code(tmp_path, capsys):
    run(tmp_path, recipe(steps=2))
    torch.save({"identity": Planted()}, tmp_path / "state.pt")
    with pytest.raises(TabrtError, match="damaged"):
        run(tmp_path, recipe(steps=2))
    assert "has run" not in capsys.readouterr().out


def test_a_network_starts_from_the_weights_that_fit(tmp_path):
    best = run(tmp_path / "a", recipe(steps=2))
    wider = dataclasses.replace(TINY, balt_channels=4)
    model = Tab(wider)
    assert "weights taken over" in loop.load_matching(model, best)
    assert torch.equal(model.scbe.stacks[0].last.weight, weights(best)["scbe.stacks.0.last.weight"])


def test_a_network_of_another_width_is_no_start(tmp_path):
    best = run(tmp_path / "a", recipe(steps=2))
    other = Tab(dataclasses.replace(TINY, channels=3 * TINY.channels, balt_channels=3 * TINY.balt_channels))
    with pytest.raises(TabrtError, match=r"of \d+ weights fit this network; give the --width that it has \(custom\)"):
        loop.load_matching(other, best)


def test_a_run_whose_state_was_lost_carries_on_from_its_packed_weights(tmp_path):
    run(tmp_path / "a", recipe(steps=6), validate_every=6)
    pack(tmp_path / "a/last.safetensors", tmp_path / "kept.safetensors")
    assert (tmp_path / "kept.safetensors").stat().st_size < 0.7 * (tmp_path / "a/last.safetensors").stat().st_size
    kept, whole = weights(tmp_path / "kept.safetensors"), weights(tmp_path / "a/last.safetensors")
    assert all(value.dtype == whole[name].dtype for name, value in kept.items())
    for name, value in whole.items():
        torch.testing.assert_close(kept[name], value, atol=1e-3, rtol=1e-3)
    told = {"start": tmp_path / "kept.safetensors", "carry_on": True, "validate_every": 2}
    run(tmp_path / "b", recipe(steps=10), **told)
    with (tmp_path / "b/log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["8", "10"]
    with pytest.raises(TabrtError, match="does not say how many faces"):
        run(tmp_path / "c", recipe(steps=10), **{**told, "start": tmp_path / "a/best.safetensors"})


def test_a_network_grows_hourglasses_and_computes_the_same_at_first(tmp_path):
    torch.manual_seed(0)
    best = run(tmp_path, recipe(steps=2))
    small, grown = load_checkpoint(best)[0], Tab(dataclasses.replace(TINY, hourglasses=3))
    assert "weights taken over" in loop.load_matching(grown, best)
    x = normalise(torch.randint(0, 256, (2, CROP_SIZE, CROP_SIZE, 3), dtype=torch.uint8))
    with torch.no_grad():
        before, after = small.eval()(x), grown.eval()(x)
    torch.testing.assert_close(after.landmarks, before.landmarks)
    torch.testing.assert_close(after.boundaries[2], before.boundaries[0])
    grown(x).landmarks.square().sum().backward()
    assert all(part.weight.grad.abs().max() > 0 for part in grown.scbe.calibrations[1].children())


def test_in_half_precision_the_labels_stay_exact(tmp_path, monkeypatch):
    seen = []

    def watched(maps, points, empty, weight):
        seen.append((maps.dtype, points))
        return landmark_cross_entropy(maps, points, empty, weight)

    monkeypatch.setattr("training.losses.landmark_cross_entropy", watched)
    for precision in ("32-true", "bf16-mixed"):
        run(tmp_path / precision, recipe(steps=1), precision=precision)
    (full, points), (half, same_points) = seen
    assert (full, half) == (torch.float32, torch.bfloat16)
    assert torch.equal(points, same_points)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    phases = (Phase("all", samples=40, learning_rate=1e30),)
    with pytest.raises(TabrtError, match=r"not finite at step .*learning rate"):
        run(tmp_path, recipe(phases=phases))


@pytest.mark.parametrize("source", ["drawn", "real"])
def test_a_tiny_network_learns_eight_faces_by_heart(tmp_path, source, steps=28):
    """One batch, few steps, small crops, from weights larger than the paper's, which start too slowly for a test.

    Judged with the batch's own statistics: those that batch normalisation keeps follow 100 times slower in the
    landmark transform.
    """
    faces = drawn_faces(8) if source == "drawn" else real_faces(tmp_path)
    crops = Crops({"faces": faces}, STILL, 128)
    batch = collate([crops["faces", i, i] for i in range(8)])
    torch.manual_seed(0)
    objective = Objective(Tab(dataclasses.replace(TINY, balt_channels=16, crop_size=128)), recipe(), "all")
    for module in objective.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=0)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.03 * min(1, (step + 1) / 5) * (1 if step < steps - 8 else 0.3)
        objective(*batch)[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        points, _ = decode(objective.model(normalise(batch[0])).landmarks.numpy())
    true = batch[1].numpy()
    assert nme(points, true, eye_distance(true, WFLW98)).mean() < 0.12  # 0.6 or more at the start


# Several processes


def batch_of(count: int, first: int = 0) -> tuple[torch.Tensor, ...]:
    faces = drawn_faces(8)
    faces.points[1, 40:60] = np.nan  # so that the halves of a batch have different numbers of labels
    crops = Crops({"drawn": faces}, STILL)
    return collate([crops["drawn", i, i] for i in range(first, first + count)])


def gradients(rank: int, world: int, port: int, folder: str) -> None:
    """One of `world` processes: the gradient of its share of a batch of 4, as DDP averages it."""
    import os

    import lightning_fabric as lightning

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "NODE_RANK": "0",
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world),
    }
    os.environ |= {"TORCHELASTIC_RUN_ID": "test"}
    fabric = lightning.Fabric(accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto")
    with joined(fabric):
        torch.manual_seed(0)
        objective = Objective(
            Tab(TINY), recipe(), "all", (lambda v: fabric.all_reduce(v, reduce_op="sum")) if world > 1 else None
        )
        wrapped = fabric.setup_module(objective).eval()  # torch has no synchronised batch normalisation on CPUs
        share = 4 // world
        loss, *_ = wrapped(*batch_of(share, rank * share))
        fabric.backward(loss)
        if rank == 0:
            grads = {name: p.grad for name, p in objective.named_parameters()}
            torch.save(grads, Path(folder) / f"{world}.pt")


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one_with_the_whole_batch(tmp_path, unused_port):
    spawn = multiprocessing.get_context("spawn")
    jobs = [(rank, world, unused_port + world) for world in (1, 2) for rank in range(world)]
    processes = [spawn.Process(target=gradients, args=(*job, str(tmp_path))) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    assert one.keys() == two.keys()
    # A softmax takes no notice of the last bias: its gradient is 0, and what stands there is rounding.
    assert all(float(grads["model.balt.out.bias"].abs().max()) < 1e-7 for grads in (one, two))
    for name in one.keys() - {"model.balt.out.bias"}:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6 * float(one[name].abs().max()) + 1e-9)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


# Batches


def test_every_face_comes_once_in_each_pass_and_sets_by_their_share():
    plan = Plan({"a": 300, "b": 50, "c": 9}, {"a": 0.6, "b": 0.4}, 10, range(100), seed=3)
    keys = [key for batch in plan for key in batch]
    assert sum(name == "a" for name, *_ in keys) == 600 and not any(name == "c" for name, *_ in keys)
    first = [index for name, index, _ in keys if name == "a"][:300]
    assert sorted(first) == list(range(300))
    assert len({seed for *_, seed in keys}) == len(keys)


def test_processes_share_a_batch_and_resuming_gives_the_same_one():
    sizes, shares = {"a": 30, "b": 7}, {"a": 1.0, "b": 1.0}
    whole = list(Plan(sizes, shares, 8, range(5), seed=1))
    halves = [list(Plan(sizes, shares, 8, range(3, 5), seed=1, rank=rank, world=2)) for rank in (0, 1)]
    for step in (3, 4):
        assert sorted(halves[0][step - 3] + halves[1][step - 3]) == sorted(whole[step])
    with pytest.raises(TabrtError, match="shared evenly"):
        Plan(sizes, shares, 8, range(5), seed=1, world=3)


def test_small_shares_keep_a_place():
    plan = Plan({"a": 10, "b": 10, "c": 10}, {"a": 1.0, "b": 1e-6, "c": 1.0}, 100, range(10), seed=0)
    names = [name for batch in plan for name, *_ in batch]
    assert names.count("b") == 1 and len(names) == 1000


@pytest.mark.parametrize("how", [PAPER, STRONG])
def test_points_follow_the_picture_through_augmentation(how):
    how = dataclasses.replace(how, cover=0, patches=0, tone=0, blur=0, compression=0, brightness=0)
    image = np.zeros((400, 400, 3), np.uint8)
    points = np.random.default_rng(0).uniform(120, 280, (98, 2)).round()
    points[3], points[WFLW98.mirror[3]] = (180, 170), (220, 230)
    for x, y in points[[3, WFLW98.mirror[3]]].astype(int):
        image[y - 3 : y + 4, x - 3 : x + 4] = 255 if x == 180 else 128
    for seed in range(12):
        pixels, moved = training_crop(image, points, WFLW98, how, np.random.default_rng(seed))
        x, y = moved[[3, WFLW98.mirror[3]]].T
        for cx, cy in zip(x, y, strict=True):
            near = pixels[max(0, round(cy) - 8) : round(cy) + 9, max(0, round(cx) - 8) : round(cx) + 9, 0].astype(float)
            ys, xs = np.nonzero(near > 60)
            assert abs(xs.mean() + max(0, round(cx) - 8) - cx) < 1 and abs(ys.mean() + max(0, round(cy) - 8) - cy) < 1


def test_a_flip_swaps_the_boundaries_as_the_table_says():
    face = drawn_faces(1)
    flip = dataclasses.replace(STILL, flip=1.0)
    (_, plain), (_, flipped) = (
        training_crop(face.read(0), face.points[0], WFLW98, how, np.random.default_rng(0)) for how in (STILL, flip)
    )
    maps, mirrored = (render_boundaries(p, WFLW98.boundary_lines) for p in (plain, flipped))
    np.testing.assert_allclose(mirrored[BOUNDARY_MIRROR][..., ::-1], maps, atol=1e-3)


# Losses


def reference_cross_entropy(maps: torch.Tensor, points: torch.Tensor, weight: float) -> torch.Tensor:
    """The same loss by whole maps and autograd alone, every point labelled."""
    cells = (points - 1.5) / 4
    grid = torch.arange(64, dtype=maps.dtype)
    dx, dy = grid - cells[..., 0, None], grid - cells[..., 1, None]
    squares = dy[..., :, None] ** 2 + dx[..., None, :] ** 2
    target = torch.exp(-squares / (2 * 1.3**2))
    target = target / target.sum(dim=(2, 3), keepdim=True)
    log_share = maps.flatten(2).log_softmax(dim=2).view_as(maps)
    entropy = -(target * log_share).sum(dim=(2, 3))
    share = log_share.exp()
    mean = torch.stack([(share.sum(dim=2) * grid).sum(-1), (share.sum(dim=3) * grid).sum(-1)], dim=-1)
    distance = ((mean - cells).square().sum(-1) + 0.01).sqrt()
    return (entropy + weight * distance).mean()


NO_EMPTY = torch.zeros(2, dtype=torch.bool)


def test_the_hand_written_cross_entropy_and_its_gradient_are_those_of_autograd():
    torch.manual_seed(0)
    points = torch.rand(2, 3, 2) * 200 + 20
    ours, theirs = (torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    ours.requires_grad_(), theirs.requires_grad_()
    loss, expected = landmark_cross_entropy(ours, points, NO_EMPTY, 0.3), reference_cross_entropy(theirs, points, 0.3)
    loss.backward(), expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("loss", [landmark_mse, landmark_cross_entropy])
def test_points_without_a_label_are_masked(loss):
    maps = torch.randn(2, 4, 64, 64, requires_grad=True)
    points = torch.rand(2, 4, 2) * 250
    points[0, 1], points[1, 2] = torch.nan, 900.0  # unlabelled, and outside the crop
    value = loss(maps, points, NO_EMPTY)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(maps.grad).all()
    assert not maps.grad[0, 1].any() and not maps.grad[1, 2].any() and maps.grad[0, 0].any()


@pytest.mark.parametrize("name", ["mse", "cross-entropy"])
def test_where_no_face_is_maps_are_pulled_flat(name):
    """The crop without a face has a target, one with unknown points has none."""
    torch.manual_seed(0)
    points = torch.full((3, 98, 2), torch.nan)
    points[0] = torch.rand(98, 2) * 200 + 20
    known = torch.tensor([[1.0] * 16, [1.0] * 16, [0.0] * 16])
    assert faceless(points, known).tolist() == [False, True, False]
    maps = torch.randn(3, 98, 64, 64, requires_grad=True)
    objective = Objective(Tab(TINY), dataclasses.replace(recipe(), loss=name), "all")
    objective.loss(maps, [torch.zeros(3, 16, 64, 64)], points, torch.zeros(3, 16, 64, 64), known)[0].backward()
    pull = -maps.grad[1].detach()
    level = maps[1].detach() - (maps[1].mean(dim=(1, 2), keepdim=True).detach() if name != "mse" else 0)
    assert not maps.grad[2].any()
    assert ((pull * level).sum(dim=(1, 2)) < 0).all()  # high cells go down, low ones up


def test_boundaries_with_an_unlabelled_point_are_masked():
    points = drawn_faces(1).points[0]
    points[62] = np.nan
    known = known_boundaries(points, WFLW98)
    assert known.tolist() == [1] * 7 + [0] + [1] * 7 + [0]
    maps = torch.randn(1, 16, 64, 64, requires_grad=True)
    boundary_mse([maps], torch.zeros(1, 16, 64, 64), torch.from_numpy(known)[None]).backward()
    assert not maps.grad[0, 7].any() and not maps.grad[0, 15].any() and maps.grad[0, 0].any()


def test_learning_rates_of_the_paper():
    phase = RECIPES["paper"].phases[0]
    rates = [learning_rate(phase, epoch * 10, 1400, 10) for epoch in (0, 79, 80, 119, 120, 139)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    assert [phase.part for phase in RECIPES["paper"].phases] == ["scbe", "balt"]
    assert RECIPES["paper"].batch == 16 and RECIPES["paper"].loss == "mse" and RECIPES["paper"].weight_decay == 0
    short = changed(RECIPES["paper"], epochs=14)
    assert short.phases[0].milestones == (8, 12)


def test_the_cosine_warms_up_and_ends_low():
    phase = Phase("all", samples=1, learning_rate=1.0, warmup=10, learning_rate_end=0.01)
    assert learning_rate(phase, 0, 100, 1) == pytest.approx(0.1) and learning_rate(phase, 10, 100, 1) == pytest.approx(
        1
    )
    assert learning_rate(phase, 99, 100, 1) == pytest.approx(0.01, rel=0.1)


# Labels, sources, the command


@pytest.mark.parametrize("size", [CROP_SIZE, 192])
def test_a_network_that_is_right_gives_back_the_labels_on_average(size):
    face = drawn_faces(1)

    class Right(NetworkEngine):
        """Sees the true points of the crops it is asked for, as a perfect network would."""

        def __init__(self):
            from tabrt.card import ModelCard

            self.card = ModelCard(name="right", crop_size=size)

        def __call__(self, crops):
            from training.augment import truth_crop
            from training.relabel import _views

            check_crops(crops, self.card)
            views = [
                dataclasses.replace(crop, size=size).to_crop(face.points[0])
                for crop in _views(truth_crop(face.points[0]))
            ]
            mirrored = [view[WFLW98.mirror] * (-1, 1) + (size - 1, 0) for view in views]
            return render_logits(np.stack(views + mirrored), size=self.card.map_size)

    points, sure = mean_points(Right(), face.read(0), face.points[0], WFLW98.mirror)
    np.testing.assert_allclose(points, face.points[0], atol=0.1)
    assert sure.min() > 0.9


def test_bettered_labels_replace_those_of_their_set_only(tmp_path):
    a, b = drawn_faces(3, "a"), drawn_faces(2, "b")
    write_labels(tmp_path / "new.npz", {"a": a.points + 1})
    sets = with_labels({"a": a, "b": b}, tmp_path / "new.npz")
    np.testing.assert_array_equal(sets["a"].points, a.points + 1)
    assert sets["b"] is b
    write_labels(tmp_path / "new.npz", {"a": a.points[:2]})
    with pytest.raises(TabrtError, match="does not fit"):
        with_labels({"a": a, "b": b}, tmp_path / "new.npz")


def test_sources_have_weights_all_or_none():
    wflw, shared = parse_sources("wflw:/a/b@0.25, shared:/c@3")
    assert (wflw.name, str(wflw.root), wflw.weight, shared.weight) == ("wflw", "/a/b", 0.25, 3)
    for text, problem in (("wflw", "NAME:FOLDER"), ("elsewhere:/a", "NAME one of"), ("wflw:/a@0", "above 0"),
                          ("wflw:/a@1,cofw:/b", "every source")):  # fmt: skip
        with pytest.raises(TabrtError, match=problem):
            parse_sources(text)


def test_a_set_of_another_scheme_is_refused(tmp_path, monkeypatch):
    from training import datasets

    faces = drawn_faces(40)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: faces)
    sets, shares, held = training_sets(parse_sources(f"wflw:{tmp_path}"), WFLW98, {}, tmp_path)
    held = held[0].faces
    assert len(sets["wflw"]) + len(held) == 40 and shares == {"wflw": len(sets["wflw"])}
    assert not set(sets["wflw"].names) & set(held.names)
    with pytest.raises(TabrtError, match="--topology wflw98"):
        training_sets(parse_sources(f"wflw:{tmp_path}"), datasets.IBUG68, {}, tmp_path)


def test_a_problem_is_one_line_and_exit_code_1():
    words = ["evaluate", "--dataset", "wflw", "--root", "nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "training", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "error: there is no folder nowhere; give the folder of wflw\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--data", "shared:nowhere"], "no human.zip"),
        (["train", "--recipe", "paper", "--samples", "100"], "give --epochs instead"),
        (["train", "--recipe", "paper", "--samples", "100", "--epochs", "3"], "given twice"),
        (["train", "--fusion", "2", "--channels", "30"], "multiple of 4"),
    ],
)
def test_wrong_wishes_are_told(words, told):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, TabrtError) and told in str(done.exception)


@pytest.mark.parametrize(
    "words", [["train", "--recipe", "best"], ["evaluate", "--dataset", "wflw", "--root", ".", "--perturb", "rain"]]
)
def test_wrong_usage_is_exit_code_2(words):
    assert CliRunner().invoke(app, words).exit_code == 2


def test_half_of_what_an_adapted_network_was_is_kept(tmp_path):
    run(tmp_path / "start", recipe(steps=2))
    start = tmp_path / "start/last.safetensors"
    run(tmp_path / "all", recipe(steps=4), start=start)
    run(tmp_path / "half", recipe(steps=4, kept=0.5), start=start)
    before, new, half = (
        weights(start),
        weights(tmp_path / "all/last.safetensors"),
        weights(tmp_path / "half/last.safetensors"),
    )
    for name, value in half.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (before[name] + new[name]) / 2, atol=1e-6, rtol=1e-5)
    assert not same(before, half)


def folder_of_68(root: Path, count: int = 4) -> Path:
    """A flat folder of pictures with .pts beside them."""
    root.mkdir()
    for i, points in enumerate(to_68(drawn_faces(count).points)):
        cv2.imwrite(str(root / f"me{i}.png"), drawn_faces(count).read(i))
        rows = "\n".join(f"{x + 1} {y + 1}" for x, y in points)
        (root / f"me{i}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    return root


def test_a_network_of_98_points_adapts_to_a_folder_of_68(tmp_path):
    """The whole way, by the command: it keeps its scheme and its size, whatever they are."""
    run(tmp_path / "before", recipe(steps=2))
    start = tmp_path / "before/last.safetensors"
    folder = folder_of_68(tmp_path / "mine")
    words = ["train", "--recipe", "adapt", "--data", f"300w:{folder}", "--start", str(start), "--out"]
    done = CliRunner().invoke(
        app, [*words, str(tmp_path / "after"), "--samples", "8", "--batch", "4", "--workers", "0"]
    )
    assert done.exit_code == 0, done.exception
    model, card = load_checkpoint(tmp_path / "after/best.safetensors")
    assert model.config == TINY and card.topology == "wflw98" and "300w (3 faces)" in card.training_data
    assert "from 300w68 to wflw98: 3 of 3" in done.output
    with (tmp_path / "after/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2"] and rows[0]["landmarks"] == ""  # before and after
    assert float(rows[0]["validation"]) > 0
    done = CliRunner().invoke(app, ["train", "--recipe", "adapt", "--data", f"300w:{folder}"])
    assert isinstance(done.exception, TabrtError) and "--start tab1-lite" in str(done.exception)


@pytest.mark.parametrize(
    ("wish", "refused"),
    [("--skips 1", "--skips"), ("--no-top", "--no-top"), ("--hourglasses 2", "--hourglasses"), ("--stem vgg", "--stem"),
     ("--topology cofw29", "--topology"), ("--crop-size 192", "--crop-size"), ("--skips 4 --top --hourglasses 1", "")],
)  # fmt: skip
def test_a_network_that_goes_on_has_the_sizes_that_it_has(wish, refused, tmp_path):
    words = ["train", "--recipe", "adapt", "--start", "tab1-lite", "--data", f"300w:{tmp_path / 'none'}", "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "run"), *wish.split()])
    told = f"{refused}: " if refused else "there is no folder"  # what agrees with it goes on to look for the faces
    assert isinstance(done.exception, TabrtError) and str(done.exception).startswith(told)
    assert "\n" not in str(done.exception)


def test_every_weakness_is_judged_by_one_command(tmp_path, monkeypatch):
    from training import weaknesses

    run(tmp_path / "run", recipe(steps=2))
    faces = drawn_faces(6)
    trials = [Trial("plain", faces), Trial("dark", faces, "light")]
    monkeypatch.setattr(weaknesses, "shared_trials", lambda *_, **__: trials)
    words = ["evaluate", "--dataset", "shared", "--root", str(tmp_path), "--engine", "torch", "--faces", "4"]
    words += ["--model", str(tmp_path / "run/last.safetensors"), "--json", str(tmp_path / "a.json")]
    done = CliRunner().invoke(app, [*words, "--plots", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.exception
    told = json.loads((tmp_path / "a.json").read_text())["trials"]
    assert told["plain"]["faces"] == 4 and told["dark"]["perturbation"] == "light"
    assert told["plain"]["nme"] != told["dark"]["nme"] and "dark" in done.output
    assert "not there: human, profiles, turned," in done.stderr and "training turn" in done.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"plain.jpg", "dark.jpg"}


def test_the_sets_of_a_batch_can_have_other_shares():
    plan = with_shares(RECIPES["settle"], ["profiles=0.2", "drawn=0"])
    assert plan.mixture == {**RECIPES["settle"].mixture, "profiles": 0.2, "drawn": 0.0}
    for text, told in (("profile=0.2", "no set called 'profile'; it has human,"), ("drawn=-1", "a share of 0…1"),
                       ("drawn", "as drawn=0.02"), ("drawn=nan", "a share of 0…1")):  # fmt: skip
        with pytest.raises(TabrtError, match=told):
            with_shares(RECIPES["settle"], [text])
    with pytest.raises(TabrtError, match="none, for it takes sets by their size"):
        with_shares(RECIPES["adapt"], ["human=0.2"])


def test_the_help_shows_that_sources_have_weights():
    assert "[@WEIGHT]" in "".join(CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output.split())


@pytest.mark.parametrize("size", [128, 320])
def test_a_network_of_another_crop_size_is_shown_crops_of_its_own(size: int):
    faces = drawn_faces(2)
    usual, own = (Crops({"drawn": faces}, STILL, side)["drawn", 0, 5] for side in (256, size))
    assert (own[0].shape, own[2].shape) == ((size, size, 3), (16, size // 4, size // 4))
    np.testing.assert_allclose((own[1] + 0.5) / size, (usual[1] + 0.5) / 256, atol=1e-5)
    config = dataclasses.replace(TINY, crop_size=size)
    loss = Objective(Tab(config), recipe(), "all")(*collate([own, own]))[0]
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("loss", "draw"), [(landmark_mse, render), (landmark_cross_entropy, render_logits)])
def test_losses_of_smaller_maps_are_least_at_the_point(loss, draw):
    points = np.array([[[40.0, 70.0], [100.0, 20.0], [140.0, 70.0]]])  # the last lies beside a crop of 128 px
    right, wrong = (torch.from_numpy(draw(there, size=32)).requires_grad_() for there in (points, points + 3))
    losses = [loss(maps, torch.from_numpy(points).float(), NO_EMPTY[:1]) for maps in (right, wrong)]
    assert losses[0] < losses[1]


def test_a_run_begun_before_crops_had_sizes_goes_on():
    """Its state names a network without the field."""
    told = json.loads(identity(TINY, recipe(), 0, {}))["network"]
    assert not {"crop_size", "top", "skips"} & told.keys()
    other = dataclasses.replace(TINY, crop_size=128)
    assert json.loads(identity(other, recipe(), 0, {}))["network"]["crop_size"] == 128
