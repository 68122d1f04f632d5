import json

import numpy as np
import pytest

from fracture_ml.core.errors import NotEnoughData
from fracture_ml.evaluation.drift import psi, summarise
from fracture_ml.evaluation.shortcuts import audit, auroc_within_strata

generator = np.random.default_rng(0)
BEFORE = {"score": generator.random(500), "body_part": generator.choice(["hand", "hip"], 500)}


def test_the_same_population_is_stable_and_another_is_not():
    same = {"score": generator.random(300), "body_part": generator.choice(["hand", "hip"], 300)}
    assert {row["level"] for row in summarise(BEFORE, same).values()} == {"stable"}
    other = {"score": generator.random(300) ** 3, "body_part": np.array(["spine"] * 200 + ["hand"] * 100)}
    rows = summarise(BEFORE, other)
    assert {row["level"] for row in rows.values()} == {"large"}
    json.dumps(rows, allow_nan=False)


def test_few_images_are_not_enough_data_and_not_known_values_do_not_count():
    current = {"score": np.r_[generator.random(49), np.full(100, np.nan)]}
    row = summarise(BEFORE, current)["score"]
    assert row == {
        "n_reference": 500, "n_current": 49, "psi": None, "ks": None, "p_value": None, "level": "not enough data"
    }  # fmt: skip
    assert summarise({"score": generator.random(49)}, BEFORE)["score"]["level"] == "not enough data"


def test_psi_of_two_halves_by_hand():
    before, now = np.array([0] * 50 + [1] * 50), np.array([0] * 20 + [1] * 80)
    assert psi(before, now) == pytest.approx((0.2 - 0.5) * np.log(0.4) + (0.8 - 0.5) * np.log(1.6))


def test_numbers_are_cut_at_the_quantiles_of_what_was_before():
    before, now = np.arange(100.0), np.full(60, 1000.0)
    by_hand = 9 * (1e-4 - 0.1) * np.log(1e-4 / 0.1) + (1 - 0.1) * np.log(1 / 0.1)
    assert psi(before, now) == pytest.approx(by_hand)
    assert summarise({"score": before}, {"score": now})["score"]["psi"] == pytest.approx(by_hand)


def test_a_shift_is_called_by_its_size_where_it_is_no_chance():
    rng = np.random.default_rng(10)

    def row(n_before: int, n_now: int, shift: float) -> dict:
        return summarise({"score": rng.normal(size=n_before)}, {"score": rng.normal(shift, size=n_now)})["score"]

    few = row(60, 60, 0.0)
    assert few["psi"] > 0.1 and few["level"] == "stable", "sixty images differ so much by chance"
    small = row(20_000, 20_000, 0.1)
    assert small["p_value"] < 0.01 and small["level"] == "stable", "certain, and of no size"
    sure_enough, not_sure = row(150, 150, 0.4), row(150, 150, 0.2)
    assert 1e-4 < sure_enough["p_value"] < 0.01 and sure_enough["level"] != "stable"
    assert 0.01 < not_sure["p_value"] and not_sure["psi"] > 0.1 and not_sure["level"] == "stable"
    assert row(5000, 5000, 0.4)["level"] == "moderate"
    assert row(5000, 5000, 1.0)["level"] == "large"


@pytest.mark.parametrize("now", [8, 16])
def test_a_constant_that_is_another_constant_now_has_drifted(now):
    row = summarise({"bits_stored": np.full(200, 12)}, {"bits_stored": np.full(60, now)})["bits_stored"]
    assert row["level"] == "large"


def test_a_constant_feature_has_not_drifted():
    assert psi(np.full(80, 8.0), np.full(60, 8.0)) == 0.0


def test_a_fact_that_knows_the_label_is_found_and_one_that_does_not_is_at_chance():
    labels = generator.integers(0, 2, 600)
    width = labels * 100 + generator.normal(0, 60, 600)
    found = audit(
        np.stack([width, generator.random(600)], axis=1), ["width_px", "size_bytes"], labels, np.arange(400),
        np.arange(400, 600), model_scores=width[400:],
    )  # fmt: skip
    assert found["auroc"]["low"] > 0.75
    assert found["by_fact"]["width_px"] > 0.8
    assert found["by_fact"]["size_bytes"] < 0.65
    assert found["model_auroc_within_strata"] < found["auroc"]["value"]  # the model only knew the width
    json.dumps(found, allow_nan=False)


def test_tags_are_audited_by_themselves_and_together_with_the_file():
    labels = generator.integers(0, 2, 600)
    width = labels * 100 + generator.normal(0, 150, 600)
    hardware = np.where(generator.random(600) < 0.2 + 0.5 * labels, "yes", "no")
    tags = np.stack([hardware, generator.choice(["hand", "hip"], 600)], axis=1)
    tags[599] = "never seen in training"
    found = audit(
        width[:, None], ["width_px"], labels, np.arange(400), np.arange(400, 600),
        tags=tags, tag_names=["hardware", "body_part"],
    )  # fmt: skip
    assert found["auroc_of_both"]["value"] > max(found["auroc"]["value"], found["auroc_of_tags"]["value"])
    assert found["by_fact"]["hardware"] > 0.65 > found["by_fact"]["body_part"]
    json.dumps(found, allow_nan=False)


def test_one_class_only_cannot_be_audited():
    with pytest.raises(NotEnoughData):
        audit(np.ones((4, 1)), ["width_px"], np.array([0, 1, 1, 1]), np.array([0, 1]), np.array([2, 3]))


def test_within_strata_a_model_that_repeats_the_shortcut_is_at_chance():
    labels = np.array([0, 0, 1, 0, 1, 1] * 50)
    shortcut = np.array([0.2, 0.2, 0.2, 0.8, 0.8, 0.8] * 50)
    assert auroc_within_strata(shortcut, labels, shortcut, 2) == 0.5
