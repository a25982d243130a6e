"""The network: the paper's sizes and shapes, its variants, and what its config refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tabrt.errors import TabrtError
from tabrt.network import Tab, TabConfig
from tabrt.network.balt import Transition
from tabrt.network.config import FEATURES, STEMS
from tabrt.network.scbe import Hourglass, Scbe
from tabrt.network.tab import normalise
from tabrt.topology import TOPOLOGIES
from tabrt.variants import WIDTHS

LAYOUT = Path(__file__).parents[1].parent / "shared" / "reference" / "official_checkpoint_layout.json"
SMALL = {"channels": 8, "balt_channels": 1}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def described(**changes) -> Tab:
    """A network without memory: enough to count and to look at shapes."""
    with torch.device("meta"):
        return Tab(TabConfig.of_width("full", **changes))


@pytest.mark.parametrize(("hourglasses", "parameters", "bytes_"), [(1, 16_886_610, 64.51), (2, 22_716_770, 86.80)])
def test_sizes_of_the_paper(hourglasses, parameters, bytes_):
    model = described(hourglasses=hourglasses)
    assert sum(p.numel() for p in model.parameters()) == parameters
    size = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point()) * 4 / 2**20
    assert size == pytest.approx(bytes_, abs=0.05)


@pytest.mark.parametrize("hourglasses", [1, 2])
def test_shapes_are_those_in_the_authors_checkpoints(hourglasses):
    if not LAYOUT.is_file():
        pytest.skip("the layout of the authors' checkpoints is not here")
    theirs = json.loads(LAYOUT.read_text())[str(hourglasses)]
    found = Counter(tuple(tensor.shape) for tensor in described(hourglasses=hourglasses).state_dict().values())
    assert found == Counter(tuple(shape) for shape, _ in theirs.values())


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("features", FEATURES)
def test_every_variant_gives_its_maps(stem, features):
    for fusion, hourglasses, topology in ((0, 1, "300w68"), (1, 3, "cofw29"), (2, 2, "aflw19"), (3, 1, "wflw98")):
        with torch.device("meta"):
            config = TabConfig(topology, hourglasses, stem, **SMALL, features=features, fusion=fusion)
            model = Tab(config).eval()
            output = model(torch.zeros(2, 3, 256, 256))
        assert output.landmarks.shape == (2, TOPOLOGIES[topology].points, 64, 64)
        assert [tuple(maps.shape) for maps in output.boundaries] == [(2, 16, 64, 64)] * hourglasses
        assert TabConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_lite_costs_at_most_one_gmac():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Tab(TabConfig.of_width("lite", hourglasses=1)).eval()(torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() / 2 <= 1e9


def test_cost_of_the_paper():
    from torch.utils.flop_counter import FlopCounterMode

    for hourglasses, gmac in ((1, 19.5), (2, 25.1)):
        model = described(hourglasses=hourglasses).eval()
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 256, 256))
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.1)


def test_every_weight_takes_part():
    model = Tab(TabConfig(hourglasses=2, stem="slim", **SMALL))
    output = model(torch.randn(2, 3, 256, 256))
    sum(maps.square().mean() for maps in (output.landmarks, *output.boundaries)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_nothing_is_left_between_calls_and_batches_agree_with_singles():
    torch.manual_seed(0)
    model = Tab(TabConfig(hourglasses=2, stem="fan", **SMALL)).eval()
    x = torch.randn(3, 3, 256, 256)
    with torch.no_grad():
        together, again = model(x), model(x)
        alone = torch.cat([model(x[i : i + 1]).landmarks for i in range(3)])
    assert torch.equal(together.landmarks, again.landmarks)
    torch.testing.assert_close(alone, together.landmarks, rtol=1e-4, atol=1e-6)


def test_the_second_stack_sees_features_and_maps_of_the_first():
    torch.manual_seed(0)
    scbe = Scbe(TabConfig(hourglasses=2, stem="slim", **SMALL)).eval()
    seen = []
    scbe.stacks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        x = torch.randn(1, 3, 256, 256)
        start = scbe.stem(x)
        _, feature, maps = scbe.stacks[0](start)
        scbe(x)
        link = scbe.calibrations[0]
        torch.testing.assert_close(seen[0], start + link.feature(feature) + link.heatmaps(maps))


def test_an_hourglass_keeps_its_feature_at_each_level():
    hourglass = Hourglass(8).eval()
    with torch.no_grad():
        levels = hourglass(torch.randn(1, 8, 64, 64))
    assert [level.shape[-1] for level in levels] == [8, 16, 32, 64]
    assert len([name for name, _ in hourglass.named_children()]) == 4
    assert sum(type(module).__name__ == "Block" for module in hourglass.modules()) == 13


def test_levels_are_fused_as_the_table_says():
    """Each encoder level gets its own scale by 1×1, and the finer ones by strided 3×3."""
    for fusion in range(4):
        with torch.device("meta"):
            balt = Tab(TabConfig(hourglasses=1, stem="slim", **SMALL, fusion=fusion)).balt
        assert [len(level) for level in balt.transitions] == [min(fusion, level + 1) for level in range(4)]
    with torch.device("meta"):
        strides = [[m.stride[0] for m in Transition(8, 4, steps) if hasattr(m, "stride")] for steps in (0, 1, 2)]
    assert strides == [[1], [2], [2, 2]]


def test_weights_start_as_the_paper_says():
    model = Tab(TabConfig(hourglasses=1, stem="slim", channels=32, balt_channels=8))
    for part in (model.scbe.stacks, model.balt):
        for module in part.modules():
            if isinstance(module, torch.nn.Conv2d):
                assert module.weight.std() < 0.002
                assert module.bias is None or not module.bias.any()
    assert model.balt.encoders[0][1].momentum == 0.01 and model.scbe.stacks[0].bn.momentum == 0.1


def test_normalisation_by_hand():
    crops = np.zeros((1, 256, 256, 3), np.uint8)
    crops[0, 5, 7] = (255, 128, 0)
    out = normalise(torch.from_numpy(crops))
    expected = (np.array([1, 128 / 255, 0]) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert out.shape == (1, 3, 256, 256) and out.dtype == torch.float32
    np.testing.assert_allclose(out[0, :, 5, 7].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stem": "vit"}, "vgg, fan, resnet, slim, short"),
        ({"hourglasses": 0}, "1…8"),
        ({"hourglasses": True}, "1…8"),
        ({"channels": 30}, "multiple of 4"),
        ({"channels": 10**9}, "8…1024"),
        ({"fusion": 4}, "0…3"),
        ({"features": "double"}, "multi, single"),
        ({"topology": "wflw"}, "wflw98"),
    ],
)
def test_a_wrong_config_is_refused(changes, told):
    with pytest.raises(TabrtError, match=told):
        TabConfig(**changes)


@pytest.mark.parametrize("size", [64, 192, 320])
def test_crops_of_other_sizes_give_maps_of_a_quarter(size: int):
    network = Tab(TabConfig.of_width("lite", hourglasses=1, crop_size=size)).eval()
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, size, size))
    assert maps.landmarks.shape == (1, 98, size // 4, size // 4)
    assert maps.boundaries[-1].shape == (1, 16, size // 4, size // 4)


def test_a_width_of_other_sizes_has_no_name():
    assert all(TabConfig.of_width(name, hourglasses=1).width == name for name in WIDTHS)
    assert TabConfig.of_width("lite", crop_size=192).width == TabConfig.of_width("nano", stem="slim").width == "custom"


def test_a_width_with_other_blocks_keeps_its_name():
    """A checkpoint of before some were left out is still of its width."""
    assert all(TabConfig.of_width(name, top=True, skips=4).width == name for name in WIDTHS)


def test_without_a_top_block_the_rest_is_the_same():
    whole = TabConfig.of_width("nano", hourglasses=2, top=True)
    names, fewer = (set(dict(Tab(c).named_parameters())) for c in (whole, replace(whole, top=False)))
    gone = {name.split(".conv")[0].split(".bn")[0] for name in names - fewer}
    assert fewer < names
    assert gone == {f"scbe.stacks.{i}.top" for i in (0, 1)}


def test_skips_without_blocks_hand_on_what_they_are_given():
    whole, fewer = (TabConfig.of_width("lite", hourglasses=2, skips=count) for count in (4, 1))
    gone = set(Tab(whole).state_dict()) - set(Tab(fewer).state_dict())
    levels = {(name.split(".")[2], *name.split(".")[4:6]) for name in gone}
    assert levels == {(stack, "skip", level) for stack in "01" for level in "012"}  # the finest, 3, stays
    hourglass = Tab(replace(fewer, skips=0)).eval().scbe.stacks[0].hourglass
    for level in (*hourglass.before, *hourglass.after, hourglass.bottom):
        for convolution in (level.conv1, level.conv2, level.conv3):
            nn.init.zeros_(convolution.weight)
    x = torch.ones(1, 64, 64, 64)
    with torch.no_grad():  # 1, and one more from each coarser level
        assert [level.mean().item() for level in hourglass(x)] == [2, 3, 4, 5]


def test_a_crop_size_that_cannot_be_halved_is_refused():
    for size in (100, 32, 1024, 192.0, True):
        with pytest.raises(TabrtError, match="crop_size"):
            TabConfig(crop_size=size)


def test_a_config_of_an_older_version_has_the_defaults_of_newer_fields():
    """So that a new field does not make the checkpoints that ship unreadable."""
    config = TabConfig.of_width("lite", hourglasses=1)
    older = {name: value for name, value in config.to_dict().items() if name not in ("fusion", "features")}
    assert TabConfig.from_dict(older) == config


def test_a_config_with_other_fields_is_refused():
    values = TabConfig().to_dict()
    for wrong in ({**values, "layers": 3}, ["topology"]):
        with pytest.raises(TabrtError, match="must have the fields"):
            TabConfig.from_dict(wrong)
    assert TabConfig.of_width("lite", hourglasses=2).width == "lite" and TabConfig(channels=128).width == "custom"
