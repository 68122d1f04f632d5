"""The pictures of a training run and of its evaluation, as PNG bytes. The colours are Okabe and Ito's."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fracture_ml.core.records import OperatingPoints
from fracture_ml.evaluation.calibration import reliability
from fracture_ml.evaluation.metrics import auroc, weighted_auprc

BLUE, ORANGE, GREEN, RED, GREY, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98", "#1F2933"
_STYLE = {
    "font.family": "DejaVu Sans",
    "figure.constrained_layout.w_pad": 0.14,
    "figure.constrained_layout.h_pad": 0.14,
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EB",
    "legend.frameon": False,
    "lines.linewidth": 2.2,
}


def loss_plot(history: Sequence[dict[str, Any]], best_epoch: int) -> bytes:
    """Training and validation loss by epoch; `history` holds epoch, train_loss and validation_loss."""
    return _curves(history, best_epoch, "loss", "Cross-entropy loss")


def accuracy_plot(history: Sequence[dict[str, Any]], best_epoch: int) -> bytes:
    """Training and validation accuracy by epoch; `history` holds epoch, train_accuracy and validation_accuracy."""
    return _curves(history, best_epoch, "accuracy", "Accuracy")


def roc_plot(scores: np.ndarray, labels: np.ndarray, points: OperatingPoints) -> bytes:
    """Sensitivity against the false-positive rate, with both operating points. scores, labels: (N,)."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    with mpl.rc_context(_STYLE):
        axes = _square("ROC curve, test split", "1 - specificity", "Sensitivity")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=":", label="chance")
        area = auroc(scores, labels)
        if area is None:
            return _one_class(axes)
        found, alarms = _by_threshold(scores, labels)
        positives, negatives = labels.sum(), len(labels) - labels.sum()
        axes.plot(alarms / negatives, found / positives, color=BLUE, label=f"AUROC {area:.3f}")
        for name, threshold, colour, marker in _marks(points):
            flagged = scores >= threshold
            x, y = flagged[labels == 0].mean(), flagged[labels == 1].mean()
            axes.plot(
                x, y, marker, color=colour, markersize=9, clip_on=False, zorder=3,
                label=f"{name}: sensitivity {y:.2f}, specificity {1 - x:.2f}",
            )  # fmt: skip
        axes.legend(loc="lower right")
        return _png(axes.figure)


def precision_recall_plot(scores: np.ndarray, labels: np.ndarray, points: OperatingPoints) -> bytes:
    """Positive predictive value against sensitivity, with both operating points. scores, labels: (N,)."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    with mpl.rc_context(_STYLE):
        axes = _square("Precision and recall, test split", "Sensitivity (recall)", "PPV (precision)")
        if auroc(scores, labels) is None:
            return _one_class(axes)
        prevalence = labels.mean()
        axes.axhline(prevalence, color=GREY, linewidth=1.2, linestyle=":", label=f"chance: {prevalence:.2f} fractured")
        found, alarms = (counts[1:] for counts in _by_threshold(scores, labels))  # from the first image flagged
        area = weighted_auprc(scores, labels, np.ones((1, len(scores))))[0]
        axes.step(found / labels.sum(), found / (found + alarms), where="pre", color=BLUE, label=f"AUPRC {area:.3f}")
        for name, threshold, colour, marker in _marks(points):
            flagged = scores >= threshold
            if flagged.any():
                x, y = flagged[labels == 1].mean(), labels[flagged].mean()
                axes.plot(
                    x, y, marker, color=colour, markersize=9, clip_on=False, zorder=3,
                    label=f"{name}: PPV {y:.2f}, sensitivity {x:.2f}",
                )  # fmt: skip
        _legend_below(axes)
        return _png(axes.figure)


def reliability_plot(scores: np.ndarray, labels: np.ndarray) -> bytes:
    """Share of fractures against the mean calibrated score, by bin; the area of a dot is its n."""
    bins = reliability(scores, labels)
    with mpl.rc_context(_STYLE):
        axes = _square("Calibration, test split", "Mean calibrated score", "Share of fractures")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=":", label="perfectly calibrated")
        x, y, n = (np.array([row[key] for row in bins], dtype=float) for key in ("mean_score", "share_positive", "n"))
        # Wilson's interval (1927): honest in bins where all agree.
        centre = (y + 1.92 / n) / (1 + 3.84 / n)
        reach = 1.96 * np.sqrt(y * (1 - y) / n + 0.96 / n**2) / (1 + 3.84 / n)
        axes.plot(x, y, color=BLUE, linewidth=1.2, alpha=0.6)
        axes.vlines(x, centre - reach, centre + reach, color=BLUE, linewidth=1.4, alpha=0.6, label="95 % interval")
        axes.scatter(x, y, s=25 + 350 * n / n.sum(), color=BLUE, edgecolor="white", zorder=3, clip_on=False)
        axes.legend(loc="upper left")
        return _png(axes.figure)


def confusion_plot(scores: np.ndarray, labels: np.ndarray, points: OperatingPoints) -> bytes:
    """The confusion matrices at both operating points, side by side: counts, and shares of each row."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(9.2, 4.2), layout="constrained")
        for axes, (name, threshold, *_) in zip(figure.subplots(1, 2), _marks(points), strict=True):
            flagged = scores >= threshold
            counts = np.array([[np.sum((labels == y) & (flagged == f)) for f in (True, False)] for y in (1, 0)])
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
            for (row, column), count in np.ndenumerate(counts):
                axes.text(
                    column, row, f"{count:,}\n{shares[row, column]:.0%}", ha="center", va="center", fontsize=14,
                    color="white" if shares[row, column] > 0.6 else INK,
                )  # fmt: skip
            axes.set(
                title=f"At {name} ({threshold:.3f})",
                xticks=[0, 1], xticklabels=["flagged", "not flagged"],
                yticks=[0, 1], yticklabels=["fracture", "no fracture"],
            )  # fmt: skip
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        return _png(figure)


def score_histogram(scores: np.ndarray, labels: np.ndarray, points: OperatingPoints) -> bytes:
    """The calibrated scores of fractured and other radiographs, each as a share of its own class."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    edges = np.linspace(0, 1, 26)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for name, value, colour, hatch in (("no fracture", 0, BLUE, None), ("fracture", 1, ORANGE, "///")):
            of_class = scores[labels == value]
            if len(of_class):
                axes.hist(
                    of_class, edges, weights=np.full(len(of_class), 1 / len(of_class)), color=colour, alpha=0.55,
                    hatch=hatch, edgecolor=colour, linewidth=0.8, label=f"{name} (n = {len(of_class):,})",
                )  # fmt: skip
        for name, threshold, colour, _ in _marks(points):
            axes.axvline(threshold, color=colour, linewidth=1.8, linestyle="--", label=f"{name} = {threshold:.3f}")
        axes.set(title="Scores, test split", xlabel="Calibrated score", ylabel="Share of the class", xlim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _legend_below(axes)
        return _png(figure)


def _curves(history: Sequence[dict[str, Any]], best_epoch: int, measure: str, title: str) -> bytes:
    epochs = [row["epoch"] for row in history]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        marker = "o" if len(epochs) < 40 else None
        for side, colour, style in (("train", BLUE, "-"), ("validation", ORANGE, "--")):
            values = [row[f"{side}_{measure}"] for row in history]
            axes.plot(epochs, values, style, color=colour, marker=marker, markersize=4, label=side)
        best = next(row for row in history if row["epoch"] == best_epoch)[f"validation_{measure}"]
        axes.axvline(best_epoch, color=GREY, linewidth=1.2, linestyle=":")
        axes.plot(
            best_epoch, best, "D", color=GREEN, markersize=9, zorder=3, clip_on=False,
            label=f"kept: epoch {best_epoch}, validation {best:.3f}",
        )  # fmt: skip
        axes.set(title=f"{title} by epoch", xlabel="Epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.03, y=0.08)
        _legend_below(axes, columns=3)
        return _png(figure)


def _marks(points: OperatingPoints) -> tuple[tuple[str, float, str, str], ...]:
    """Name, threshold, colour and marker of both operating points."""
    return (("t_sensitivity", points.t_sensitivity, GREEN, "o"), ("t_specificity", points.t_specificity, RED, "s"))


def _by_threshold(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives as the threshold falls over the distinct scores: two of (U + 1,), from 0."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) < 0, True])
    found, alarms = np.cumsum(labels[order] == 1)[last], np.cumsum(labels[order] == 0)[last]
    return np.r_[0, found], np.r_[0, alarms]


def _square(title: str, xlabel: str, ylabel: str) -> Axes:
    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.005))
    axes.set_box_aspect(1)
    return axes


def _one_class(axes: Axes) -> bytes:
    axes.text(0.5, 0.5, "one class only:\nnothing to draw", ha="center", va="center", fontsize=14)
    return _png(axes.figure)


def _legend_below(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
