"""Variants are data in one place, and so is the rule that names them."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from tabrt.commands.options import NetworkOptions
from tabrt.engines.engine import MODELS
from tabrt.errors import TabrtError
from tabrt.network import TabConfig
from tabrt.variants import DEFAULT_MODEL, DEFAULT_WIDTH, SHIPPED, WIDTHS, variant_name


def test_models_are_named_after_hourglasses_and_width():
    names = [variant_name(hourglasses, width) for hourglasses in (1, 2) for width in ("full", "lite")]
    assert names == ["tab1", "tab1-lite", "tab2", "tab2-lite"]
    assert variant_name(1, DEFAULT_WIDTH) == DEFAULT_MODEL


@pytest.mark.parametrize("width", list(WIDTHS))
def test_every_width_is_a_network_and_knows_its_name(width: str):
    assert TabConfig.of_width(width).width == width
    options, name = NetworkOptions(hourglasses=2, width=width), variant_name(2, width)
    if name in SHIPPED:
        assert options.model_name == name
    else:
        with pytest.raises(TabrtError, match=rf"no weights ship for --hourglasses 2 --width {width} \({name}\)"):
            _ = options.model_name


def test_a_width_alone_names_the_model_of_it_that_ships():
    assert NetworkOptions(width="base").model_name == "tab2-base"
    assert NetworkOptions(width="nano").model_name == "tab1-nano"
    assert NetworkOptions(width="lite").model_name == NetworkOptions().model_name == DEFAULT_MODEL


def test_what_ships_is_what_engines_offer():
    assert tuple(MODELS) == SHIPPED
    assert DEFAULT_MODEL in SHIPPED


def test_the_rule_stands_once():
    """Whoever writes `tab{hourglasses}` again has a second rule."""
    rooms = ("tabrt", "training", "export", "benchmarks")
    found = [
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\btab\{(?!config\.hourglasses\}-authors)", path.read_text("utf-8"))
    ]
    assert found == ["tabrt/variants.py"]
