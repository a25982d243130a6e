"""The seam: one picture for all sinks, drawn when first looked at; where faces are hidden, nothing else is left."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tabrt.drawing import Drawing
from tabrt.faces import Frame, Scene
from tabrt.film.reading import open_film
from tabrt.film.writing import FilmWriter
from tabrt.live import LiveCamera, Run, Snapshots, Wish
from tabrt.sinks import FilmSink, MadeLate, PictureSink, Sink


def grey(value: int = 90, size: tuple[int, int] = (6, 8)) -> Scene:
    return Scene(Frame(np.full((*size, 3), value, np.uint8), 7, 0.5))


def test_a_picture_is_drawn_once_when_it_is_looked_at_and_in_the_order_of_its_layers():
    drawn: list[str] = []

    def first(image, scene):
        drawn.append("first")
        assert scene.frame.index == 7
        image[:, :4] = 1

    def second(image, _scene):
        drawn.append("second")
        image[:, 2:] = 2

    scene = Drawing((first, second))(grey())
    assert drawn == []
    assert scene.picture is scene.picture
    assert drawn == ["first", "second"]
    assert scene.picture[0, :, 0].tolist() == [1, 1, 2, 2, 2, 2, 2, 2]
    assert (scene.frame.image == 90).all()


def test_without_layers_the_picture_is_the_frame():
    scene = Drawing()(grey())
    assert scene.picture is scene.frame.image


def test_where_faces_are_hidden_no_sink_has_a_way_to_the_raw_frame():
    raw = grey()

    def black(image, _scene):
        image[2:4] = 0

    def white(image, _scene):
        image[0] = 255

    scene = Drawing((white,), hide=black)(raw)
    assert not np.shares_memory(scene.frame.image, raw.frame.image)
    assert (scene.frame.image[2:4] == 0).all() and (scene.frame.image[0] == 90).all()
    assert (scene.picture[2:4] == 0).all() and (scene.picture[0] == 255).all()
    assert (scene.frame.index, scene.frame.time) == (7, 0.5)
    assert (raw.frame.image == 90).all()


def test_film_page_snapshot_and_picture_show_the_same_and_it_is_drawn_once(tmp_path):
    page = pytest.importorskip("tabrt.live.page", reason="needs the extra: pip install '.[serve]'")
    drawn: list[int] = []

    def white(image, scene):
        drawn.append(scene.frame.index)
        image[4:12, 4:28] = 255

    scene = Drawing((white,), hide=lambda image, _scene: image.__setitem__(slice(16, 24), 0))(grey(size=(32, 32)))
    run = Run(LiveCamera(lambda: None))
    run.ask(Wish("snapshot"))
    with (
        PictureSink({7: tmp_path / "picture.png"}) as pictures,
        FilmSink(FilmWriter(tmp_path / "film.mkv", 32, 32, 25, codec="ffv1")) as film,
        Snapshots(run, tmp_path) as snapshots,
    ):
        for sink in (pictures, film, snapshots):
            sink(scene)
    message = page.message(scene, run.status)
    jpeg = np.frombuffer(message[4 + int.from_bytes(message[:4]) :], np.uint8)
    shown = [cv2.imread(str(path)) for path in (tmp_path / "picture.png", next(tmp_path.glob("tabrt-*.png")))]
    with open_film(tmp_path / "film.mkv") as written:
        shown += [next(iter(written)).image, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)]
    assert drawn == [7]
    for picture in shown:
        assert np.abs(picture.astype(int) - scene.picture).max() < 25  # JPEG
        assert picture[18:22].max() < 25 and picture[6:10, 8:24].min() > 230


def test_a_sink_is_closed_by_its_with_block_even_when_a_scene_fails():
    class Failing(Sink):
        closed = False

        def __call__(self, scene: Scene) -> None:
            raise RuntimeError("no")

        def close(self) -> None:
            self.closed = True

    with pytest.raises(RuntimeError), Failing() as sink:
        sink.tick(None)
        sink(grey())
    assert sink.closed


def test_a_sink_made_late_knows_the_first_scene_and_is_closed_if_it_was_made():
    made: list[tuple[int, int]] = []

    class Counting(Sink):
        scenes = 0
        closed = False

        def __call__(self, scene: Scene) -> None:
            self.scenes += 1

        def close(self) -> None:
            self.closed = True

    counting = Counting()

    def make(scene: Scene) -> Sink:
        made.append(scene.frame.image.shape[:2])
        return counting

    with MadeLate(make) as sink:
        pass
    assert not made and not counting.closed
    with MadeLate(make) as sink:
        sink(grey())
        sink(grey())
    assert (made, counting.scenes, counting.closed) == ([(6, 8)], 2, True)
