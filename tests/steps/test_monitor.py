"""Live performance from final reads, and when a person is asked to look."""

from fracture_ml.steps.monitor import MIN_FINAL_READS, _below, live_performance


def reads(*, found: int, missed: int, passed: int = 0, suspicious: int = 0, urgent: int = 0, unscored: int = 0):
    return [
        *[("urgent", "positive")] * found,
        *[("below", "positive")] * missed,
        *[("below", "negative")] * passed,
        *[("suspicious", "negative")] * suspicious,
        *[("urgent", "negative")] * urgent,
        *[("unavailable", "positive")] * unscored,
        ("suspicious", "uncertain"),
    ]


def test_live_figures_have_exact_intervals_and_say_how_many_reads_they_rest_on():
    live = live_performance(reads(found=80, missed=20, passed=50, suspicious=30, urgent=20, unscored=7))
    assert (live["final_reads"], live["with_a_score"], live["overrides"]) == (208, 201, 40)
    sensitivity = live["sensitivity"]
    assert (sensitivity["value"], sensitivity["n"]) == (0.8, 100)
    assert 0.708 < sensitivity["low"] < 0.709 and 0.873 < sensitivity["high"] < 0.874  # Clopper and Pearson, 80 of 100
    assert (live["specificity"]["value"], live["specificity_urgent"]["value"]) == (0.5, 0.8)


def test_few_final_reads_are_no_figure():
    live = live_performance(reads(found=MIN_FINAL_READS - 1, missed=0))
    assert live["sensitivity"] == {"value": None, "low": None, "high": None, "n": 29, "note": "not enough data"}
    assert _below("sensitivity", live["sensitivity"], 0.95) is None


def test_a_person_is_asked_where_the_reads_exclude_the_target_and_not_for_a_chance_miss():
    chance = live_performance(reads(found=92, missed=8))["sensitivity"]
    assert chance["value"] < 0.95 <= chance["high"] and _below("sensitivity", chance, 0.95) is None
    sentence = _below("sensitivity", live_performance(reads(found=80, missed=20))["sensitivity"], 0.95)
    assert "Live sensitivity is 0.800 (0.708 to 0.873, 100 final reads" in sentence and "chosen for 0.95" in sentence
