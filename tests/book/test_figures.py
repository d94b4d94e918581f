"""What the figures draw is what they were given."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from nbclient import NotebookClient

from rlfseg.book.figures import (
    COLOURS,
    as_picture,
    bars,
    before_after,
    class_maps,
    clouds,
    histograms,
    learning_curves,
    lines,
    miou_bars,
    paired_bars,
    pictures,
    refinement,
    roofline,
    segmentations,
    smoothed,
    stacked,
    sweeps,
)
from rlfseg.data.packed.read import Item
from rlfseg.evaluation.counting import count
from rlfseg.experiment import Curve
from rlfseg.method.refinement import Refined


@pytest.fixture(autouse=True)
def _no_window() -> None:
    mpl.use("agg")


def test_a_picture_keeps_its_range_and_its_axes() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0])[:, None, None].expand(3, 2, 5)
    picture = as_picture(image * 1.5)
    assert picture.shape == (2, 5, 3)
    np.testing.assert_array_equal(picture[1, 4], [0.0, 0.5, 1.0])


def test_a_grid_has_a_picture_in_each_place_and_the_outlines_where_they_belong() -> None:
    square = np.zeros((8, 8), bool)
    square[2:6, 2:6] = True
    rows = [[np.full((8, 8), 0.25), np.zeros((8, 8, 3), np.uint8)], [square * 1.0]]
    figure = pictures(rows, columns=["a", "b"], labels=["r"], outlines={(0, 1): [square, ~square]})
    axes = np.array(figure.axes).reshape(2, 2)
    shown = [[len(axis.images) for axis in row] for row in axes]
    assert shown == [[1, 1], [1, 0]]
    grey = axes[0][0].images[0]
    assert grey.get_clim() == (0, 1) and (grey.get_array() == 0.25).all()
    assert [axis.get_title() for axis in axes[0]] == ["a", "b"]
    assert axes[0][0].get_ylabel() == "r"
    outlined = axes[0][1].collections
    assert [to_hex(c.get_edgecolor()[0]).upper() for c in outlined] == [COLOURS[1], COLOURS[0]]
    assert not axes[0][0].collections


def test_segmentations_outline_what_exceeds_the_threshold() -> None:
    square = np.zeros((8, 8), bool)
    square[2:6, 2:6] = True
    item = Item("a", "small star", np.zeros((8, 8, 3), np.uint8), square, None, None)
    scores = torch.full((2, 8, 8), 0.3)
    scores[0, :4] = 1.7  # above what a score map shows
    axes = np.array(segmentations([item, item], scores, threshold=0.3).axes).reshape(3, 2)
    picture, score, mask = ([axis.images[0].get_array() for axis in row] for row in axes)
    assert score[0].max() == 1 and np.array_equal(mask[0], scores[0].numpy() > 1)
    assert not mask[1].any()  # a score that equals the threshold is not above it
    assert [len(axis.collections) for axis in axes[0]] == [2, 1]
    assert [axis.get_title() for axis in axes[0]] == ["small star"] * 2
    assert np.array_equal(picture[0], item.image)


def test_curves_are_the_values() -> None:
    series = {"one": ([1, 2, 3], [5.0, 6.0, 4.0]), "two": ([1, 3], [1.0, 2.0])}
    (axis,) = lines(series, x="step", y="loss", log="xy").axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "loss")
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    drawn = {line.get_label(): line.get_xydata().T.tolist() for line in axis.get_lines()}
    assert drawn == {name: [list(x), list(y)] for name, (x, y) in series.items()}
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "two"]


def test_a_logarithmic_axis_of_few_decades_is_numbered_plainly() -> None:
    figure = lines({"": ([6e4, 4e5], [1.0, 1000.0])}, x="pictures", y="", log="xy")
    figure.draw_without_rendering()
    (axis,) = figure.axes
    across = [text.get_text() for text in axis.get_xticklabels()]
    assert {"100,000", "200,000"} <= set(across)
    assert not any(text.get_text() for text in axis.get_xticklabels(minor=True))
    assert "200" not in [text.get_text() for text in axis.get_yticklabels()]  # powers of ten


def test_bars_show_value_and_interval() -> None:
    values = {"first": (40.0, (35.0, 47.0)), "second": (12.5, (12.0, 13.0))}
    (axis,) = bars(values, x="mIoU").axes
    assert [bar.get_width() for bar in axis.patches] == [40.0, 12.5]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    (whiskers,) = axis.collections
    ends = [segment[:, 0].tolist() for segment in whiskers.get_segments()]
    assert ends == [[35.0, 47.0], [12.0, 13.0]]
    assert [text.get_text() for text in axis.texts] == ["40.0", "12.5"]


def test_stacked_bars_begin_where_the_part_before_ends() -> None:
    values = {"one": {"a": 1.0, "b": 2.0}, "two": {"a": 4.0, "b": 0.5}}
    (axis,) = stacked(values, x="ms").axes
    drawn = [(bar.get_x(), bar.get_width()) for bar in axis.patches]
    assert drawn == [(0, 1), (0, 4), (1, 2), (4, 0.5)]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


def test_clouds_have_all_points_and_their_medians() -> None:
    clouds_of = {"one": ([0.0, 1.0, 5.0], [1.0, 2.0, 3.0]), "two": ([-1.0, 1.0], [0.5, 1.5])}
    points = {name: tuple(map(np.array, each)) for name, each in clouds_of.items()}
    (axis,) = clouds(points, x="along", y="beside").axes
    drawn = [np.asarray(each.get_offsets()).tolist() for each in axis.collections]
    assert drawn[::2] == [
        [list(point) for point in zip(*each, strict=True)] for each in clouds_of.values()
    ]
    assert drawn[1::2] == [[[1.0, 2.0]], [[0.0, 1.0]]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "two"]


def test_paired_bars_lie_beside_each_other() -> None:
    values = {"star": (40.0, 35.0), "sand": (12.5, 0.0)}
    (axis,) = paired_bars(values, series=("there", "all"), x="IoU").axes
    drawn = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axis.patches]
    wanted = [(-0.2, 40.0), (0.8, 12.5), (0.2, 35.0), (1.2, 0.0)]
    np.testing.assert_allclose(drawn, wanted, atol=1e-9)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["star", "sand"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["there", "all"]


def test_a_class_has_one_colour_in_every_map_and_what_is_no_class_has_none() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    truth = np.array([[0, 0, 1, 1]] * 3 + [[255] * 4])
    given = np.where(truth == 1, 2, 0)
    names = ("star", "sand", "stone", "never")
    figure = class_maps([image], {"true": [truth], "given": [given]}, names)
    drawn = [np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes]
    assert np.array_equal(drawn[0], image)
    assert (drawn[1][3] == 255).all()
    assert np.array_equal(drawn[1][0, 0], drawn[2][0, 0])
    assert len({tuple(drawn[1][0, 0]), tuple(drawn[1][0, 3]), tuple(drawn[2][0, 3])}) == 3
    legend = {
        text.get_text(): tuple(round(255 * c) for c in patch.get_facecolor()[:3])
        for text, patch in zip(
            figure.legends[0].get_texts(), figure.legends[0].get_patches(), strict=True
        )
    }
    assert list(legend) == ["star", "sand", "stone"]
    assert legend["sand"] == tuple(drawn[1][0, 3])


def test_the_roof_is_the_lower_of_slope_and_rate() -> None:
    figure = roofline(
        {"a": (4.0, 3e9), "none": (0.0, 0.0), "b": (100.0, 9e9)}, rate=1e10, slope=1e9
    )
    (axis,) = figure.axes
    across, up = axis.lines[0].get_data()
    np.testing.assert_allclose(up, np.minimum(10, across))
    assert across.min() <= 4 and across.max() >= 100
    points = [tuple(each.get_offsets()[0].tolist()) for each in axis.collections]
    assert points == [(4.0, 3.0), (100.0, 9.0)]


def test_miou_bars_show_the_counts_own_readings() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    scores = masks.float()
    scores[2] = 1.0  # half of it wrong
    counts = count(scores, masks, ["a", "b", "c"])
    (axis,) = miou_bars({"all": counts, "none": counts.select(np.zeros(3, bool))}).axes
    assert [bar.get_width() for bar in axis.patches] == [100 * counts.miou().value]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["all (3)"]


def test_histograms_count_everything() -> None:
    figure = histograms({"a": [1, 1, 2, 9], "b": np.arange(50)}, y="count", bins=4)
    counts = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert counts[0] == [3, 0, 0, 1] and sum(counts[1]) == 50
    assert [axis.get_xlabel() for axis in figure.axes] == ["a", "b"]


def test_a_running_mean_looks_back_only() -> None:
    assert smoothed([4.0, 2.0, 0.0, 6.0], width=2) == [4.0, 3.0, 1.0, 3.0]
    assert smoothed([5.0] * 40) == [5.0] * 40
    assert smoothed([4.0, np.nan, 2.0, np.inf], width=2) == [4.0, 4.0, 2.0, 2.0]


def test_figures_are_shown_once() -> None:
    before = plt.get_fignums()
    lines({"a": ([0, 1], [0.0, 1.0])}, x="x", y="y")
    assert plt.get_fignums() == before


def test_refinement_shows_anchors_steps_and_what_is_still_wrong() -> None:
    truth, mask, image = (
        np.zeros((8, 8), bool),
        np.zeros((8, 8), bool),
        np.zeros((8, 8, 3), np.uint8),
    )
    truth[2:6, 2:6] = mask[2:6, 3:7] = True
    item = Item("a", "small star", image, mask, truth, None)
    anchors = np.array([[3.0, 2.0], [5.0, 4.0]])
    result = Refined(mask, anchors, (truth, mask), (0.6, 1.0), True, 1.0, 0.9, None)
    figure = refinement([item], [result])
    assert len(figure.axes) == 4
    assert figure.axes[0].collections[-1].get_offsets().tolist() == anchors.tolist()
    drawn = figure.axes[3].images[0].get_array()
    missing, too_much = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in COLOURS[1::-1]
    )
    np.testing.assert_allclose(drawn[3, 2] * 255, missing)
    np.testing.assert_allclose(drawn[3, 6] * 255, too_much)
    without = Item("a", "small star", image, mask, None, None)
    assert len(refinement([without], [result]).axes) == 3


def test_before_and_after_are_the_points_coordinates() -> None:
    pairs = np.array([[0.2, 0.9], [0.8, 0.4]])
    first, second = before_after({"IoU": pairs, "boundary F": pairs[::-1]}).axes
    assert first.collections[0].get_offsets().tolist() == pairs.tolist()
    assert second.get_title() == "boundary F"


def test_a_sweep_shows_both_scores_and_the_work() -> None:
    swept = {
        "tau": {"values": [0.8, 0.9], "iou": [80, 85], "boundary": [60, 70], "asked": [1, 2.5]}
    }
    (axis,) = sweeps(swept, y="%").axes
    assert [list(line.get_ydata()) for line in axis.lines] == [[80, 85], [60, 70]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.8\n(1.0x)", "0.9\n(2.5x)"]


@pytest.mark.integration
def test_a_notebook_shows_figures_under_any_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter's own takes no part where `MPLBACKEND` names another."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    source = "from rlfseg.book.figures import lines\nlines({'a': ([0, 1], [0, 1])}, x='x', y='y')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 1 and len(shown[0].data["image/png"]) > 1000


def test_what_is_learned_again_is_thin_and_of_the_same_colour() -> None:
    curve = Curve(np.array([10, 20]), np.array([0.1, 0.2]), np.array([0.1, 0.1]))
    curves = {"a": [curve], "b": [curve], "a, short": [curve] * 2}
    figure = learning_curves({"": curves}, again=", short")
    told = {line.get_label(): line for line in figure.axes[0].lines if line.get_linestyle() == "-"}
    long, other, again = (told[name] for name in ("a", "b", "a, short"))
    assert long.get_color() == again.get_color() != other.get_color()
    assert again.get_linewidth() < long.get_linewidth() == other.get_linewidth()
    assert long.get_ydata().tolist() == pytest.approx([10, 20])


def test_each_panel_has_its_own_curves_before_those_of_the_others() -> None:
    low, high = (
        Curve(np.array([10, 20]), np.array([0.1, top]), np.array([0.1, 0.1])) for top in (0.2, 0.8)
    )
    first, second = learning_curves({"one": {"a": [low]}, "two": {"b": [high]}}).axes
    assert (first.get_title(), second.get_title()) == ("one", "two")
    for axis, name, own, other in ((first, "a", 20, 80), (second, "b", 80, 20)):
        assert [text.get_text() for text in axis.get_legend().get_texts()] == [name]
        behind, line, _ = axis.lines
        assert (behind.get_ydata()[-1], line.get_ydata()[-1]) == pytest.approx((other, own))
        assert behind.get_zorder() < line.get_zorder()
