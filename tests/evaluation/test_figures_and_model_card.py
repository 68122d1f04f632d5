import io
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from fracture_ml.evaluation import figures
from fracture_ml.evaluation.metrics import evaluate, subgroup_table
from fracture_ml.evaluation.model_card import render
from fracture_ml.evaluation.operating_points import choose

generator = np.random.default_rng(0)
LABELS = (generator.random(120) < 0.3).astype(int)
SCORES = np.clip(generator.normal(0.3 + 0.4 * LABELS, 0.15), 0, 1)
POINTS = choose(SCORES, LABELS, 0.95, 0.95)
HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1.2 / epoch, "train_accuracy": 0.7,
     "validation_accuracy": 0.6}
    for epoch in (1, 2, 3)
]  # fmt: skip


def all_figures(labels):
    return {
        "loss_plot": figures.loss_plot(HISTORY, best_epoch=2),
        "accuracy_plot": figures.accuracy_plot(HISTORY, best_epoch=2),
        "roc_plot": figures.roc_plot(SCORES, labels, POINTS),
        "precision_recall_plot": figures.precision_recall_plot(SCORES, labels, POINTS),
        "reliability_plot": figures.reliability_plot(SCORES, labels),
        "confusion_plot": figures.confusion_plot(SCORES, labels, POINTS),
        "score_histogram": figures.score_histogram(SCORES, labels, POINTS),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [LABELS, np.zeros(120, dtype=int)], ids=["both classes", "one class"])
def test_every_figure_is_a_picture_whatever_the_labels(labels):
    for png in all_figures(labels).values():
        assert min(Image.open(io.BytesIO(png)).size) >= 400


def test_the_same_figures_give_the_same_bytes():
    assert figures.roc_plot(SCORES, LABELS, POINTS) == figures.roc_plot(SCORES, LABELS, POINTS)


def test_the_model_card_says_what_reviewers_ask_for_in_both_forms():
    groups = [str(index) for index in range(120)]
    subgroups = [{"body_part": "hand" if index % 2 else "hip"} for index in range(120)]
    markdown, html = render(
        {
            "version": 3,
            "metrics": evaluate(SCORES, LABELS, groups, POINTS),
            "subgroups": subgroup_table(SCORES, LABELS, subgroups, POINTS),
            "operating_points": asdict(POINTS),
            "calibration": {"temperature": 1.2, "bias": -0.1},
            "figures": all_figures(LABELS),
            "verdict": {"passed": True, "reasons": ["AUROC <fine> | well"]},
        }
    )
    for text in (markdown, html):
        for words in (
            "not a medical device", "Intended", "Not intended", "leakage", "Operating points", "95 % intervals", "hip",
            "Shortcut audit", "Growth plates", "not a lesion boundary", "Nobody has approved",
        ):  # fmt: skip
            assert words.lower() in text.lower()
    assert html.count("data:image/png;base64,") == 7
    assert "<fine>" not in html and "&lt;fine&gt;" in html
    assert "http" not in html  # one file, nothing to fetch


def test_the_model_card_says_whose_labels_it_learned_from_and_what_they_mean():
    data = {"data": {"body_part": {"hand": 3}}}
    labels = [{"source": "dataset", "meaning": "abnormal", "positive": 1, "negative": 2}]
    told = render({**data, "labels": labels, "positive_means": "abnormal"})[0]
    assert "dataset | abnormal | 1 | 2" in told and "the score is the chance of one" in told
    assert "the score is the chance of one" not in render({**data, "positive_means": "fracture"})[0]


@pytest.mark.parametrize(("shown", "words"), [("places", "8 x 8"), ("evidence", "32 times"), (None, "not recorded")])
def test_the_model_card_says_what_the_heat_maps_of_this_version_show(shown, words):
    (line,) = [line for line in render({"heat_map": shown})[0].splitlines() if "AI attention" in line]
    assert words in line


def test_what_a_model_card_lacks_is_said_to_be_missing():
    markdown, _ = render({})
    assert markdown.count("Not recorded.") >= 6
    assert "Not judged yet." in markdown
