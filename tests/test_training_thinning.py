"""A stem with fewer channels says nearly what it said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_network import face_crops

from tabrt.card import ModelCard
from tabrt.errors import TabrtError
from tabrt.network import Tab, TabConfig
from tabrt.network.checkpoint import save_checkpoint
from tabrt.network.tab import normalise
from training.checkpointing import load_matching
from training.thinning import thinned


def test_what_the_channels_that_go_said_is_said_by_those_that_stay():
    """Half of them can be told from the others: here each is another's double."""
    torch.manual_seed(0)
    model = Tab(TabConfig(hourglasses=1, stem="short", channels=32, balt_channels=4)).eval()
    first, norm = model.scbe.stem[0], model.scbe.stem[1]
    torch.nn.init.normal_(norm.running_mean, std=0.1)
    for values in (first.weight.data, norm.running_mean):
        values[1::2] = values[::2]
    norm.weight.data[1::2] *= 3
    crops = torch.from_numpy(face_crops(4))
    thin, left = thinned(model, [crops], 8)
    with torch.no_grad():
        expected, found = (network.scbe.stem(normalise(crops)) for network in (model, thin))
    assert thin.config.stem_channels == 8 and left < 1e-6
    assert torch.allclose(found, expected, atol=1e-4)
    assert thin.scbe.stem[0].weight.shape[0] == 8


def test_only_stems_of_plain_convolutions_become_thinner_and_only_thinner():
    crops = [torch.from_numpy(face_crops(1))]
    small = {"hourglasses": 1, "channels": 32, "balt_channels": 4}
    with pytest.raises(TabrtError, match="only slim and short ones"):
        thinned(Tab(TabConfig(stem="fan", **small)), crops, 8)
    for count in (16, 20, 0):
        with pytest.raises(TabrtError, match="1…15"):
            thinned(Tab(TabConfig(stem="slim", **small)), crops, count)


def test_a_start_of_another_stem_is_refused_with_its_remedy(tmp_path: Path):
    """Else trained layers would begin below a first one of chance."""
    small = {"hourglasses": 1, "channels": 32, "balt_channels": 4}
    path = tmp_path / "wide.safetensors"
    save_checkpoint(path, Tab(TabConfig(stem="slim", **small)), ModelCard(name="wide"))
    thin = Tab(TabConfig(stem="short", stem_channels=8, **small))
    with pytest.raises(TabrtError, match=r"16 channels.* with 8; give --stem-channels 16, or .*training thin"):
        load_matching(thin, path)
    assert "weights taken over" in load_matching(Tab(TabConfig(stem="short", **small)), path)
