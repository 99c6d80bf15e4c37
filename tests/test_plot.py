import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from mutation_decode import plot

RANDOM = np.random.default_rng(0)


def test_js_by_layer_draws_the_mean_and_its_band() -> None:
    js = RANDOM.exponential(0.1, (40, 6))
    axes = plot.js_by_layer({"nouns": js, "function words": 0.1 * js})
    assert axes.get_xlabel() == "block"
    assert axes.get_ylabel() == "Jensen-Shannon divergence (nats)"
    line = axes.get_lines()[0]
    assert line.get_label() == "nouns (n = 40)"
    np.testing.assert_allclose(line.get_ydata(), js.mean(axis=0))
    np.testing.assert_allclose(line.get_xdata(), range(6))
    band = axes.collections[0].get_paths()[0].vertices
    half = 1.96 * js[:, 2].std(ddof=1) / np.sqrt(40)
    at = band[band[:, 0] == 2, 1]
    np.testing.assert_allclose([at.min(), at.max()], [js[:, 2].mean() - half, js[:, 2].mean() + half])


def test_unread_blocks_and_single_tokens_are_drawn_without_complaint() -> None:
    js = np.full((1, 4), np.nan)
    js[0, 2] = 0.1
    figure = plot.js_by_layer({"one": js}).figure
    figure.canvas.draw()


def test_the_heat_map_has_a_row_for_each_token() -> None:
    js = RANDOM.exponential(0.1, (3, 6))
    axes = plot.js_heatmap(["a", " table", "\n"], js)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "table", "'\\n'"]
    np.testing.assert_allclose(axes.images[0].get_array(), js)
    assert axes.images[0].colorbar.ax.get_ylabel() == "Jensen-Shannon divergence (nats)"
    axes.figure.canvas.draw()


def test_given_axes_are_used() -> None:
    left, right = Figure().subplots(1, 2)
    assert plot.js_by_layer({"a": np.ones((2, 3))}, left) is left
    assert plot.js_heatmap(["a"], np.ones((1, 3)), right) is right


def test_wrong_shapes_and_a_missing_matplotlib_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"one L for every group, got {'a': \(2, 3\), 'b': \(2, 4\)}"):
        plot.js_by_layer({"a": np.ones((2, 3)), "b": np.ones((2, 4))})
    with pytest.raises(ValueError, match=r"js \[2 tokens, L\], got shape \(1, 3\)"):
        plot.js_heatmap(["a", "b"], np.ones((1, 3)))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'mutation-decode\[plots\]'"):
        plot.js_heatmap(["a"], np.ones((1, 3)))
