"""Figures hold exactly the numbers of the files, and are images of the size they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from run_folders import sae, write_evaluation, write_run, write_training

from chronosae.config import UserError
from chronosae.report import plot_comparison, read_run, read_runs
from chronosae.report.figures import comparison_figures
from chronosae.report.style import DPI, series_of, spread


@pytest.fixture
def folder(tmp_path):
    names = ["topk", "topk@2", "relu_l1"]
    values = (0.90, 0.92, 0.84)
    saes = {
        n: sae(n, i, core={"explained_variance": v, "l0": 32 + i})
        for i, (n, v) in enumerate(zip(names, values, strict=True))
    }
    folder = write_run(tmp_path / "runs" / "run_0", saes)
    write_training(folder, names)
    for name in names:
        write_evaluation(folder, name, [0.0, 0.001, 0.01, 0.012, 0.5], {16: 0.6, 32: 0.77, 64: 0.9})
    return folder


def lines(ax):
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in ax.get_lines()]


def test_the_sparsity_figure_draws_l0_and_fve_of_every_seed_and_the_pca_curve(folder):
    drawn = lines(comparison_figures([read_run(folder)])["sparsity"].axes[0])
    assert drawn == [([16, 32, 64], [0.6, 0.77, 0.9]), ([32, 33], [0.90, 0.92]), ([34], [0.84])]


def test_without_evaluation_files_pca_is_drawn_from_the_metrics(tmp_path):
    drawn = lines(comparison_figures([read_run(write_run(tmp_path / "r"))])["sparsity"].axes[0])
    assert drawn[0] == ([32.0], [0.77])


def test_the_recovery_figure_draws_means_seeds_and_intervals(folder):
    _, ax = comparison_figures([read_run(folder)])["recovery"].axes
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(0.91), pytest.approx(0.84)]
    interval, seeds, single = [x for x, _ in lines(ax)]
    assert seeds == [0.90, 0.92] and single == [0.84]
    # t_{0.975, 1} = 12.7062, s / sqrt(2) = 0.01
    assert interval == [pytest.approx(0.91 - 0.127062, abs=1e-6), pytest.approx(0.91 + 0.127062, abs=1e-6)]


def test_the_training_figure_draws_the_rows_of_metrics_jsonl(folder):
    run = read_run(folder)
    rows = run.training()
    for ax, metric in zip(comparison_figures([run])["training"].axes, ("loss", "l0", "dead"), strict=True):
        expected = [
            ([r.tokens for r in rows[n]], [getattr(r, metric) for r in rows[n]]) for n in ("topk", "topk@2", "relu_l1")
        ]
        assert lines(ax) == expected


def test_the_density_figure_counts_every_feature_that_fires(folder):
    for stairs in comparison_figures([read_run(folder)])["densities"].axes[0].patches:
        assert stairs.get_data().values.sum() == pytest.approx(4 / 5)


@pytest.mark.parametrize("fmt", ["png", "svg"])
def test_files_are_written_in_the_size_asked_for(folder, tmp_path, fmt):
    written = plot_comparison(read_runs([folder.parent]), tmp_path / "out", fmt)
    assert [path.name for path in written] == [f"{n}.{fmt}" for n in ("sparsity", "recovery", "training", "densities")]
    if fmt == "svg":
        assert all("<svg" in path.read_text() for path in written)
        return
    for path, figure in zip(written, comparison_figures([read_run(folder)]).values(), strict=True):
        image = imread(path)
        width, height = figure.get_size_inches()
        assert image.shape[:2] == (round(height * DPI), round(width * DPI))
        assert np.ptp(image[..., :3]) > 0.5


def test_the_same_data_give_the_same_file(folder, tmp_path):
    runs = [read_run(folder)]
    once, again = (plot_comparison(runs, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert once == again


def test_what_cannot_be_drawn_is_said(tmp_path, folder):
    bare = read_run(write_run(tmp_path / "bare", {"topk": sae(metrics={})}))
    with pytest.raises(UserError, match="nothing to draw"):
        plot_comparison([bare], tmp_path / "out")
    with pytest.raises(UserError, match="png, svg"):
        plot_comparison([bare], tmp_path / "out", "gif")
    with pytest.raises(UserError, match="can't be written"):
        plot_comparison([read_run(folder)], folder / "config.yaml")


def test_odd_values_are_left_out_of_figures(tmp_path):
    odd = {"topk": sae(core={"l0": 0.0}), "x$y$": sae(core={"ce_loss_score": -3.0}), "none": sae(metrics={})}
    figures = comparison_figures([read_run(write_run(tmp_path / "r", odd))])
    assert len(lines(figures["sparsity"].axes[0])) == 2  # PCA and x$y$
    assert figures["recovery"].axes[0].get_xlim()[0] < -3.0
    assert plot_comparison([read_run(tmp_path / "r")], tmp_path / "out")


def test_long_names_are_shortened_without_becoming_equal(tmp_path):
    for i in range(2):
        write_run(tmp_path / f"a_run_with_a_long_name_{i}", {"an_autoencoder_with_a_long_name": sae(), "topk": sae()})
    labels = [series.label for series in series_of(read_runs([tmp_path]))]
    assert len(set(labels)) == 4 and max(map(len, labels)) <= 26
    assert labels[1] == "a_run_wit…ng_name_0 · topk"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_labels_keep_their_order_and_their_distance(wanted):
    placed = spread(wanted, 0.1, 0.0, 1.0)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= 0.1 - 1e-9).all()
    assert min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9
