"""Animated SVG drawings at a time, against transforms computed by hand."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from muse_jax.data.motion.smil import AnimatedDrawing, ease


def drawing(animations, own=""):
    return AnimatedDrawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><g id="a"{own}>{animations}</g></svg>'
    )


def attribute(animated, seconds, name):
    return ET.fromstring(animated.at(seconds))[0].get(name)


def numbers(text):
    return [float(x) for x in text[text.index("(") + 1 : -1].split()]


def transform(kind, values, rest=""):
    return (
        f'<animateTransform attributeName="transform" type="{kind}" values="{values}" dur="4s" begin="0s" '
        f'repeatCount="indefinite"{rest}/>'
    )


def test_a_linear_translation_is_halfway_at_half_of_its_interval():
    animated = drawing(transform("translate", "0 0;0 -6;2 0"))
    assert attribute(animated, 1.0, "transform") == "translate(0 -3)"  # values at 0, 2 and 4 s
    assert attribute(animated, 3.0, "transform") == "translate(1 -3)"


def test_an_animation_repeats():
    animated = drawing(transform("rotate", "0 3 5;360 3 5"))
    assert attribute(animated, 1.0, "transform") == attribute(animated, 9.0, "transform") == "rotate(90 3 5)"


def test_before_its_beginning_an_attribute_is_its_own():
    opacity = '<animate attributeName="opacity" values="0;1" dur="1s" begin="0.4s" repeatCount="indefinite"/>'
    animated = drawing(opacity, own=' opacity="0.3"')
    assert attribute(animated, 0.3, "opacity") == "0.3"
    assert float(attribute(animated, 0.9, "opacity")) == pytest.approx(0.5)
    assert attribute(animated, 0.3, "opacity") == "0.3"  # a later time leaves nothing behind


def test_key_times_divide_the_duration():
    opacity = (
        '<animate attributeName="opacity" values="0;1;1;0" keyTimes="0;0.15;0.85;1" dur="2s" '
        'repeatCount="indefinite"/>'
    )
    animated = drawing(opacity)
    for seconds, expected in ((0.15, 0.5), (1.0, 1.0), (1.85, 0.5)):
        assert float(attribute(animated, seconds, "opacity")) == pytest.approx(expected)


def test_a_sum_is_added_to_the_transform_before_it_and_any_other_replaces_it():
    scale = transform("scale", "1 1;3 3", ' additive="sum"')
    animated = drawing(transform("translate", "0 0;8 0") + scale, own=' transform="translate(5 5)"')
    assert attribute(animated, 2.0, "transform") == "translate(4 0) scale(2 2)"


def test_a_spline_is_the_bezier_curve_through_its_control_points():
    spline = (0.42, 0.0, 0.58, 1.0)
    for t in (0.1, 0.5, 0.8):
        x, y = (
            3 * first * t * (1 - t) ** 2 + 3 * second * t**2 * (1 - t) + t**3
            for first, second in ((spline[0], spline[2]), (spline[1], spline[3]))
        )
        assert ease(spline, x) == pytest.approx(y, abs=1e-9)


def test_a_spline_eases_its_own_interval():
    rest = ' calcMode="spline" keySplines="0.42 0 1 1; 0 0 1 1"'
    animated = drawing(transform("translate", "0 0;0 10;0 20", rest))
    assert numbers(attribute(animated, 1.0, "transform"))[1] == pytest.approx(
        10 * ease((0.42, 0, 1, 1), 0.5), 1e-5
    )
    assert numbers(attribute(animated, 3.0, "transform"))[1] == pytest.approx(15, 1e-5)


def test_resvg_draws_a_rotation_where_trigonometry_puts_it():
    from muse_jax.data.motion.rendering import _rasterize

    dot = '<circle cx="7" cy="4" r="0.7"/>'
    animated = drawing(dot + transform("rotate", "0 4 4;360 4 4"))
    for seconds in (0.5, 1.0, 3.0):
        alpha = np.asarray(_rasterize(animated.at(seconds), 64))[..., 3].astype(float)
        rows, columns = np.indices(alpha.shape) + 0.5
        angle = 2 * math.pi * seconds / 4
        expected = (4 + 3 * math.cos(angle)) * 8, (4 + 3 * math.sin(angle)) * 8
        assert np.average(columns, weights=alpha) == pytest.approx(expected[0], abs=0.2)
        assert np.average(rows, weights=alpha) == pytest.approx(expected[1], abs=0.2)


@pytest.mark.parametrize(
    "animations, message",
    [
        (transform("skewX", "0;1"), "of type 'skewX'"),
        (transform("scale", "1"), "does not repeat between values"),
        (transform("scale", "1;2", ' keyTimes="0;0.5;1"'), "3 keyTimes of 2 values"),
        (transform("scale", "1;2", ' calcMode="spline" keySplines="0 0 1 1;0 0 1 1"'), "2 keySplines"),
    ],
)
def test_an_unsupported_animation_is_refused(animations, message):
    with pytest.raises(ValueError, match=message):
        drawing(animations)
