"""Each data set in the layout it is distributed in, made up small; and each of its files spoilt."""

from __future__ import annotations

import io
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_faces import real_faces

import training.sets
from tabrt.errors import TabrtError
from tabrt.topology import WFLW98
from training.datasets import DATASETS, load_dataset, parse_sources, read_pts, training_sets
from training.sets import (
    SHARED_SETS,
    ZIPS,
    held_out,
    held_out_of_few,
    load_zip,
    photo_of,
    sets_named,
    shared_faces,
    shared_validation,
)
from training.weaknesses import shared_trials


def points_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(20, 180, (count, 2)).round(2)


def picture(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((200, 200, 3), value, np.uint8))
    return path


def write_pts(path: Path, points: np.ndarray) -> None:
    rows = "\n".join(f"{x} {y}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n")


def load(name: str, root: Path, part: str = "test"):
    return load_dataset(name, root, part, root / "cache")


def numbers(values) -> str:
    return " ".join(f"{value:g}" for value in np.ravel(values))


# WFLW

WFLW_LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"


def wflw_tree(root: Path) -> Path:
    for part, flags in (("train", ["0 0 0 0 0 0"] * 2), ("test", ["1 0 0 0 0 0", "0 1 0 0 1 0", "0 0 0 0 0 1"])):
        path = root / WFLW_LIST.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for i, flag in enumerate(flags):
            picture(root / "WFLW_images" / f"0--Parade/{part}_{i}.jpg", 10 * i)
            lines.append(f"{numbers(points_of(98, i))} 20 20 180 180 {flag} 0--Parade/{part}_{i}.jpg")
        path.write_text("\n".join(lines) + "\n")
    return root


def test_wflw(tmp_path):
    faces = load("wflw", wflw_tree(tmp_path))
    assert len(faces) == 3 and faces.topology.name == "wflw98" and faces.names[1] == "0--Parade/test_1.jpg"
    np.testing.assert_allclose(faces.points[2], points_of(98, 2), atol=1e-4)
    assert {name: mask.tolist() for name, mask in faces.subsets.items()} == {
        "pose": [1, 0, 0], "expression": [0, 1, 0], "illumination": [0] * 3, "make-up": [0] * 3,
        "occlusion": [0, 1, 0], "blur": [0, 0, 1],
    }  # fmt: skip
    assert faces.read(2).shape == (200, 200, 3) and abs(int(faces.read(2)[0, 0, 0]) - 20) < 4
    assert len(load("wflw", tmp_path, "train")) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 2 3 0--Parade/test_0.jpg", r"test\.txt, line 2: 4 words; expected 196 coordinates"),
        (f"{'5 ' * 100}x{' 5' * 95} 1 1 9 9 0 0 0 0 0 0 0--Parade/test_0.jpg", "line 2: 'x' is no number"),
        (f"{'inf ' * 196}1 1 9 9 0 0 0 0 0 0 0--Parade/test_0.jpg", "line 2: a number is infinite"),
        (f"{numbers(points_of(98))} 1 1 9 9 0 0 0 0 0 0 gone.jpg", r"face 2: the picture .*gone\.jpg is not there"),
        (f"{numbers(points_of(98))} 1 1 9 9 0 0 0 0 0 0 ../../secret.jpg", "face 2: the picture .* is not there"),
        (f"{'nan ' * 196}1 1 9 9 0 0 0 0 0 0 0--Parade/test_0.jpg", "test_0.jpg has fewer than two labelled points"),
        (f"{'7 ' * 196}1 1 9 9 0 0 0 0 0 0 0--Parade/test_0.jpg", "test_0.jpg has fewer than two labelled points"),
    ],
)
def test_a_wrong_line_of_wflw_is_named(tmp_path, line, told):
    path = wflw_tree(tmp_path / "wflw") / WFLW_LIST.format("test")
    picture(tmp_path / "secret.jpg")
    path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(TabrtError, match=told):
        load("wflw", tmp_path / "wflw")


def test_a_missing_or_binary_list_is_named(tmp_path):
    path = wflw_tree(tmp_path) / WFLW_LIST.format("test")
    path.write_bytes(b"\xff\xfe\x00" * 50)
    with pytest.raises(TabrtError, match=r"test\.txt: cannot be read as text"):
        load("wflw", tmp_path)
    path.write_text("\n\n")
    with pytest.raises(TabrtError, match="no faces of the test part"):
        load("wflw", tmp_path)
    path.unlink()
    with pytest.raises(TabrtError, match=r"no WFLW_annotations/.*test\.txt in it"):
        load("wflw", tmp_path)


def test_hrnets_list_of_wflw(tmp_path):
    picture(tmp_path / "WFLW_images/a.jpg")
    header = "image_name,scale,center_w,center_h," + ",".join(f"original_{i}_x,original_{i}_y" for i in range(98))
    rows = [f"a.jpg,{0.5 + i},100,{90 + i}," + ",".join(f"{v}" for v in points_of(98, i).ravel()) for i in range(2)]
    (tmp_path / "face_landmarks_wflw_test.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "face_landmarks_wflw_test_blur.csv").write_text("\n".join([header, rows[1]]) + "\n")
    faces = load("wflw", tmp_path)
    np.testing.assert_allclose(faces.boxes[0], [50, 40, 150, 140])  # side = 200 · scale
    np.testing.assert_allclose(faces.points[1], points_of(98, 1), atol=1e-4)
    assert {name: mask.tolist() for name, mask in faces.subsets.items()} == {"blur": [False, True]}
    (tmp_path / "face_landmarks_wflw_test.csv").write_text("\n".join([header, rows[0][:-20]]))
    with pytest.raises(TabrtError, match=r"test\.csv, line 2: .* fields; expected 200"):
        load("wflw", tmp_path)


# 300-W


def w300_tree(root: Path) -> Path:
    names = ("afw/1051618982_1.jpg", "helen/trainset/a.jpg", "helen/testset/b.jpg", "lfpw/trainset/i1.png",
             "lfpw/testset/i2.png", "ibug/image_092 _01.jpg")  # fmt: skip
    for seed, name in enumerate(names):
        write_pts(picture(root / name).with_suffix(".pts"), points_of(68, seed))
    return root


def test_300w(tmp_path):
    faces = load("300w", w300_tree(tmp_path))
    assert faces.names.tolist() == ["helen/testset/b.jpg", "ibug/image_092 _01.jpg", "lfpw/testset/i2.png"]
    assert faces.subsets["common"].tolist() == [True, False, True]
    assert faces.subsets["challenging"].tolist() == [False, True, False]
    np.testing.assert_allclose(faces.points[0], points_of(68, 2) - 1, atol=1e-4)  # .pts count from 1
    train = load("300w", tmp_path, "train")
    assert train.names.tolist() == ["afw/1051618982_1.jpg", "helen/trainset/a.jpg", "lfpw/trainset/i1.png"]


def test_300w_takes_any_tree_of_pictures_with_pts(tmp_path):
    for i, suffix in enumerate((".jpg", ".PNG", ".bmp")):
        write_pts(picture(tmp_path / f"deep/{i}/face{suffix}").with_suffix(".pts"), points_of(68, i))
    faces = load("300w", tmp_path)
    assert len(faces) == 3 and not faces.subsets and all(faces.read(i).shape == (200, 200, 3) for i in range(3))


def test_a_wrong_pts_is_named(tmp_path):
    path = picture(tmp_path / "a.jpg").with_suffix(".pts")
    for text, told in (
        ("version: 1\nn_points: 68\n{\n1 2\n3\n}\n", r"a\.pts, line 5: '3'; expected x and y"),
        ("version: 1\n{\n1 2\n3 y\n}\n", r"a\.pts, line 4: 'y' is no number"),
        ("version: 1\n{\n1 2\n}\n", r"a\.pts: 1 points between braces; expected 68"),
    ):
        path.write_text(text)
        with pytest.raises(TabrtError, match=told):
            read_pts(path, 68)
    write_pts(path, points_of(68))
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(TabrtError, match=r"a\.pts: no picture beside it"):
        load("300w", tmp_path)
    path.unlink()
    with pytest.raises(TabrtError, match=r"no \.pts file"):
        load("300w", tmp_path)


def test_an_unreadable_picture_is_named(tmp_path):
    path = picture(tmp_path / "a.jpg")
    write_pts(path.with_suffix(".pts"), points_of(68))
    path.write_bytes(b"no picture")
    with pytest.raises(TabrtError, match=r"a\.jpg cannot be read as a picture"):
        load("300w", tmp_path).read(0)


def test_hrnets_list_of_300w(tmp_path):
    for name in ("helen/testset/b.jpg", "ibug/c.jpg"):
        picture(tmp_path / "images" / name)
    rows = [
        f"{name},1,100,101," + ",".join(map(str, points_of(68).ravel()))
        for name in ("helen/testset/b.jpg", "ibug/c.jpg")
    ]
    (tmp_path / "face_landmarks_300w_valid.csv").write_text("image_name,scale\n" + "\n".join(rows))
    faces = load("300w", tmp_path)
    assert faces.subsets["challenging"].tolist() == [False, True]
    np.testing.assert_allclose(faces.points[0], points_of(68) - 1, atol=1e-4)
    np.testing.assert_allclose(faces.boxes[0], [-1, 0, 199, 200])


def test_300w_private(tmp_path):
    for i, name in enumerate(("01_Indoor/indoor_001.png", "02_Outdoor/outdoor_001.png")):
        write_pts(picture(tmp_path / name).with_suffix(".pts"), points_of(68, i))
    faces = load("300w-private", tmp_path)
    assert faces.subsets["indoor"].tolist() == [True, False] and faces.subsets["outdoor"].tolist() == [False, True]
    with pytest.raises(TabrtError, match="test set"):
        load("300w-private", tmp_path, "train")


# Sets of Matlab files

scipy_io = pytest.importorskip("scipy.io")


def test_300w_lp(tmp_path):
    for folder, name in (("AFW", "AFW_134212_1_0"), ("AFW", "AFW_134212_1_2"), ("HELEN_Flip", "HELEN_1_0")):
        picture(tmp_path / folder / f"{name}.jpg")
        (tmp_path / "landmarks" / folder).mkdir(parents=True, exist_ok=True)
        points = {"pts_2d": points_of(68, 1), "pts_3d": points_of(68, 2)}
        scipy_io.savemat(tmp_path / f"landmarks/{folder}/{name}_pts.mat", points)
    faces = load("300w-lp", tmp_path, "train")
    assert faces.names.tolist() == ["AFW/AFW_134212_1"] * 2  # poses of one photo stay together; no flips
    np.testing.assert_allclose(faces.points[0], points_of(68, 2) - 1, atol=1e-4)
    scipy_io.savemat(tmp_path / "landmarks/AFW/AFW_134212_1_2_pts.mat", {"pts_3d": points_of(21)})
    with pytest.raises(TabrtError, match=r"AFW_134212_1_2_pts\.mat: pts_3d is \(21, 2\); expected \(68, 2\)"):
        load("300w-lp", tmp_path, "train")


def test_aflw2000_3d(tmp_path):
    for i, yaw in enumerate((10, -45, 80)):
        picture(tmp_path / f"image{i:05}.jpg")
        pose = np.zeros((1, 7))
        pose[0, 1] = np.deg2rad(yaw)
        points = np.vstack([points_of(68, i).T, np.zeros(68)])
        scipy_io.savemat(tmp_path / f"image{i:05}.mat", {"pt3d_68": points, "Pose_Para": pose})
    faces = load("aflw2000-3d", tmp_path)
    assert [mask.tolist() for mask in faces.subsets.values()] == np.eye(3, dtype=bool).tolist()
    np.testing.assert_allclose(faces.points[1], points_of(68, 1) - 1, atol=1e-4)
    extent = np.ptp(points_of(68, 0), axis=0)
    assert faces.lengths()[0] == pytest.approx(np.sqrt(extent.prod()), rel=1e-5)


def test_aflw(tmp_path, monkeypatch):
    monkeypatch.setattr("training.datasets._AFLW_TRAINING", 4)
    names = ["2/image1.jpg", "0/image2.jpg", "3/image3.jpg"]
    for name in names:
        picture(tmp_path / "data/flickr" / name)
    count = 7
    points = points_of(19).T.ravel()
    cells = np.empty((count, 1), object)
    for i in range(count):
        cells[i, 0] = np.array([names[i % 3]])
    visible = np.ones((count, 19))
    visible[5, 4] = 0
    order = np.arange(1, count + 1)
    table = {"data": np.tile(points, (count, 1)), "bbox": np.tile([10, 110, 20, 84], (count, 1)), "mask_new": visible}
    scipy_io.savemat(tmp_path / "AFLWinfo_release.mat", {**table, "ra": order[None], "nameList": cells})
    faces = load("aflw", tmp_path)
    assert len(faces) == 3 and faces.topology.points == 19
    np.testing.assert_allclose(faces.points[0], points_of(19), atol=1e-4)
    np.testing.assert_allclose(faces.boxes[0], [10, 20, 110, 84])  # the file has left, right, top, bottom
    assert faces.lengths()[0] == 80 and faces.subsets["frontal"].tolist() == [True, False, True]
    scipy_io.savemat(tmp_path / "AFLWinfo_release.mat", {**table, "ra": order[None] + 1, "nameList": cells})
    with pytest.raises(TabrtError, match="ra every number from 1 once"):
        load("aflw", tmp_path)


def test_hrnets_list_of_aflw(tmp_path):
    picture(tmp_path / "images/0/a.jpg")
    row = "0/a.jpg,0.5,77,100,90," + ",".join(map(str, points_of(19).ravel()))
    for name in ("test", "test_frontal"):
        (tmp_path / f"face_landmarks_aflw_{name}.csv").write_text(f"image_name,scale,box_size\n{row}\n")
    faces = load("aflw", tmp_path)
    assert faces.lengths()[0] == 77 and faces.subsets["frontal"].all()
    np.testing.assert_allclose(faces.boxes[0], [50, 40, 150, 140])


def cofw_file(path: Path, modern: bool) -> np.ndarray:
    """Two pictures and their 29 points, in Matlab's old format or in that of 7.3."""
    grey = np.arange(30 * 40, dtype=np.uint8).reshape(30, 40)
    colour = np.zeros((50, 60, 3), np.uint8)
    colour[..., 0] = 200  # red
    phis = np.stack([np.concatenate([*points_of(29, i).T, np.zeros(29)]) for i in (0, 1)])
    if not modern:
        cells = np.empty((2, 1), object)
        cells[0, 0], cells[1, 0] = grey, colour
        scipy_io.savemat(path, {"IsT": cells, "phisT": phis})
        return grey
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        references = [file.create_dataset(f"#refs#/{i}", data=image.T).ref for i, image in enumerate((grey, colour))]
        file.create_dataset("IsT", data=np.array([references], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
        file.create_dataset("phisT", data=phis.T)
    return grey


@pytest.mark.parametrize("modern", [False, True])
def test_cofw(tmp_path, modern):
    grey = cofw_file(tmp_path / "COFW_test_color.mat", modern)
    faces = load("cofw", tmp_path)
    assert len(faces) == 2 and faces.normaliser == "inter-pupil"
    np.testing.assert_allclose(faces.points[1], points_of(29, 1) - 1, atol=1e-4)
    np.testing.assert_array_equal(faces.read(0)[..., 1], grey)
    np.testing.assert_array_equal(faces.read(1)[0, 0], (0, 0, 200))  # BGR
    (tmp_path / "COFW_test_color.mat").write_bytes((tmp_path / "COFW_test_color.mat").read_bytes()[:700])
    with pytest.raises(TabrtError, match=r"COFW_test_color\.mat: .*damaged"):
        load("cofw", tmp_path)


def test_cofw_68(tmp_path):
    cofw_file(tmp_path / "COFW_test_color.mat", False)
    labels = tmp_path / "cofw68-benchmark-master/COFW68_Data/test_annotations"
    labels.mkdir(parents=True)
    for i in (1, 2):
        scipy_io.savemat(labels / f"{i}_points.mat", {"Points": points_of(68, i), "Occ": np.zeros((68, 1))})
    faces = load("cofw-68", tmp_path)
    assert len(faces) == 2 and faces.read(1).shape == (50, 60, 3) and "√" in faces.normaliser
    np.testing.assert_allclose(faces.points[0], points_of(68, 1) - 1, atol=1e-4)
    (labels / "1_points.mat").unlink()
    with pytest.raises(TabrtError, match=r"1_points\.mat"):
        load("cofw-68", tmp_path)


def test_another_matlab_file_is_refused(tmp_path):
    scipy_io.savemat(tmp_path / "COFW_test_color.mat", {"other": np.zeros(3)})
    with pytest.raises(TabrtError, match="no phisT in it .it has other"):
        load("cofw", tmp_path)


# The zips, and what all share


def test_the_zips_of_faces(tmp_path):
    faces = real_faces(tmp_path)
    assert len(faces) == 8 and faces.read(3).shape == (352, 352, 3)
    again, human = load_zip(tmp_path / "few.zip", tmp_path)
    np.testing.assert_array_equal(again.read(3), faces.read(3))
    assert np.isfinite(human).all() and (np.abs(human - 176) < 176).all()


def test_a_wrong_zip_is_named(tmp_path):
    path = tmp_path / "human.zip"
    with pytest.raises(TabrtError, match=r"no human\.zip"):
        shared_validation(tmp_path, tmp_path)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(TabrtError, match=r"human\.zip: not a zip of labelled faces.*expected labels\.npz"):
        shared_validation(tmp_path, tmp_path)


def test_no_photo_is_in_both_parts():
    names = np.array(
        [f"lfpw_image_{i:04}.webp" for i in range(500)]
        + [f"helen_1005{i}_{j}.webp" for i in range(100) for j in (1, 2)]
    )
    out = held_out(names)
    assert 30 < out.sum() < 110 and (out == held_out(names)).all()
    kept = {photo_of(name) for name in names[~out]}
    assert not kept & {photo_of(name) for name in names[out]}
    assert photo_of("helen_10051_2.webp") == "helen_10051" and photo_of("lfpw_image_0001.webp") == "lfpw_image_0001"


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_or_missing_folder_is_one_clear_line(tmp_path, name):
    for root in (tmp_path, tmp_path / "gone"):
        for part in ("train", "test"):
            with pytest.raises(TabrtError) as caught:
                load(name, root, part)
            assert "\n" not in str(caught.value) and len(str(caught.value)) > 20


def faces_zip(path: Path, names: list[str]) -> None:
    """A zip of labelled faces, as those of the shared folder are, of grey pictures."""
    points = np.stack([points_of(98, i) + 80 for i in range(len(names))]).astype(np.float32)
    human = np.tile(np.arange(98) < 20, (len(names), 1))
    memory = io.BytesIO()
    np.savez(
        memory,
        image=np.array(names),
        points98=points,
        points68=np.full((len(names), 68, 2), np.nan, np.float32),
        human98=human,
    )
    _, coded = cv2.imencode(".webp", np.full((352, 352, 3), 90, np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npz", memory.getvalue())
        for name in names:
            archive.writestr(f"images/{name}", coded.tobytes())


def shared_tree(root: Path) -> Path:
    for name in SHARED_SETS:
        faces_zip(root / f"{name}.zip", [f"{name}_image_{i:04}.webp" for i in range(20)])
    return root


def test_the_later_sets_are_taken_where_they_lie(tmp_path):
    assert set(shared_faces(shared_tree(tmp_path), tmp_path)[0]) == set(SHARED_SETS)
    faces_zip(tmp_path / "fgnet.zip", [f"fgnet_{i:03}A05.webp" for i in range(30)])
    assert set(shared_faces(tmp_path, tmp_path)[0]) == {*SHARED_SETS, "fgnet"}


def test_sets_that_are_named_need_their_own_zips_alone_and_are_those_that_are_trained_on(tmp_path):
    faces_zip(tmp_path / "fgnet.zip", [f"fgnet_{i:03}A05.webp" for i in range(30)])
    assert set(sets_named(["fgnet"], tmp_path, tmp_path)) == {"fgnet"}
    people = [f"{kind}_{person:03}_01.webp" for person in range(40) for kind in ("frontal", "profile")]
    faces_zip(shared_tree(tmp_path) / "cfp.zip", people)
    faces_zip(tmp_path / "human.zip", [f"{kind}_{i:04}.webp" for i in range(20) for kind in ("lfpw", "infanface")])
    faces_zip(tmp_path / "turned.zip", [f"turned_human_human_image_{i:04}.webp" for i in range(20)])
    everything, _ = shared_faces(tmp_path, tmp_path)
    assert set(everything) == set(ZIPS) - {"wider"}
    for name, faces in sets_named(everything, tmp_path, tmp_path).items():
        np.testing.assert_array_equal(faces.names, everything[name].names)
    with pytest.raises(TabrtError, match=r"no wider\.zip, which holds the set wider"):
        sets_named(["wider"], tmp_path, tmp_path)
    with pytest.raises(TabrtError, match="no set called 'cfp'; there are human,"):
        sets_named(["cfp"], tmp_path, tmp_path)


def test_runs_that_fill_one_cache_at_once_both_have_the_pictures(tmp_path, monkeypatch):
    """The second truncated what the first was writing, and had nothing to put in its place at the end."""
    faces_zip(tmp_path / "fgnet.zip", [f"fgnet_{i:03}A05.webp" for i in range(8)])
    decode = training.sets._decode_one

    def slowly(blob):
        time.sleep(0.05)
        return decode(blob)

    monkeypatch.setattr(training.sets, "_decode_one", slowly)

    def seen(late: float) -> list[np.ndarray]:
        time.sleep(late)
        faces = load_zip(tmp_path / "fgnet.zip", tmp_path / "cache")[0]
        return [faces.read(i) for i in range(len(faces))]

    with ThreadPoolExecutor(3) as pool:
        for pictures in pool.map(seen, (0, 0.1, 0.15)):
            assert all((picture == pictures[0]).all() and picture.any() for picture in pictures)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["fgnet.npy"]


def test_no_face_of_a_weakness_is_trained_on(tmp_path):
    shared_tree(tmp_path)
    faces_zip(tmp_path / "cfp.zip", [f"profile_{i:03}_01.webp" for i in range(40)])
    faces_zip(tmp_path / "fgnet.zip", [f"fgnet_{i:03}A{age:02}.webp" for i in range(40) for age in (5, 40)])
    faces_zip(tmp_path / "turned.zip", [f"turned_human_human_image_{i:04}.webp" for i in range(20)])
    trained = {photo_of(name) for faces in shared_faces(tmp_path, tmp_path)[0].values() for name in faces.names}
    trials = {trial.name: trial for trial in shared_trials(tmp_path, tmp_path)}
    assert set(trials) == {"human", "profiles", "turned", "children", "light", "round"}
    for trial in trials.values():
        assert len(trial.faces) and not trained & {photo_of(name) for name in trial.faces.names}
    assert all("A05" in name for name in trials["children"].faces.names)
    points = trials["profiles"].faces.points
    by_hand = [*range(0, 20, 2)]  # what people marked, but for what a spline put between
    assert np.isfinite(points[:, by_hand]).all() and np.isfinite(points).all(axis=2).sum() == len(points) * 10


def test_people_of_cfp_are_trained_on_or_kept_whole(tmp_path):
    names = [
        f"{kind}_{person:03}_{i:02}.webp" for person in range(40) for kind in ("frontal", "profile") for i in (1, 2)
    ]
    faces_zip(shared_tree(tmp_path) / "cfp.zip", names)
    sets, _ = shared_faces(tmp_path, tmp_path)
    frontal, profiles = sets["frontal"].names, sets["profiles"].names
    assert all(name.startswith("profile") for name in profiles) and len(profiles) == len(frontal)
    trained = {photo_of(name) for name in np.concatenate([frontal, profiles])}
    kept = {photo_of(name) for name in names} - trained
    assert 1 <= len(kept) < 20
    assert len(frontal) + len(profiles) == 4 * len(trained)  # nobody is split


def test_a_flat_folder_is_trained_on_and_judged_with_a_note(tmp_path):
    for i in range(4):
        write_pts(picture(tmp_path / f"face{i}.jpg").with_suffix(".pts"), points_of(68, i))
    train, test = load("300w", tmp_path, "train"), load("300w", tmp_path)
    assert len(train) == len(test) == 4
    assert not train.note and "no test of it" in test.note


def test_training_pictures_are_no_test_part(tmp_path):
    for name in ("afw/a.jpg", "helen/trainset/b.jpg"):
        write_pts(picture(tmp_path / name).with_suffix(".pts"), points_of(68))
    assert "this is no test" in load("300w", tmp_path).note
    w300_tree(tmp_path / "whole")
    assert not load("300w", tmp_path / "whole").note


def test_one_face_alone_is_too_few_to_train_on(tmp_path):
    write_pts(picture(tmp_path / "afw" / "a.jpg").with_suffix(".pts"), points_of(68))
    with pytest.raises(TabrtError, match=": 1 face is too few"):
        training_sets(parse_sources(f"300w:{tmp_path}"), WFLW98, {}, tmp_path / "cache")


def test_of_few_photos_one_at_least_is_held_out():
    for count in (2, 5, 12, 40):
        names = np.array([f"photo{i}.jpg" for i in range(count)])
        out = held_out_of_few(names)
        assert out.sum() == max(1, count // 10) and (out == held_out_of_few(names)).all()
    assert held_out_of_few(np.array(["one.jpg"])).all()
