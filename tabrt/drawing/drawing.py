"""What is drawn on the pictures of a run, decided once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tabrt.faces import Layer, Scene


@dataclass(frozen=True)
class Drawing:
    """Gives each scene the layers of its picture, which is drawn when a sink first looks at it.

    hide: a layer that covers what nobody may see. It is drawn at once on a copy that takes the place of the frame's
    image, so that no sink has a way to the raw one.
    """

    layers: tuple[Layer, ...] = ()
    hide: Layer | None = None

    def __call__(self, scene: Scene) -> Scene:
        if self.hide is not None:
            image = scene.frame.image.copy()
            self.hide(image, scene)
            scene = replace(scene, frame=replace(scene.frame, image=image))
        return self.over(scene)

    def over(self, scene: Scene) -> Scene:
        """A scene whose faces are hidden already, where they are to be, with these layers in place of its own."""
        return replace(scene, layers=self.layers)
