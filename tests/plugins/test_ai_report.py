"""A study's report: one file that shows where, says what is known, and names nobody that the list does not."""

import base64
import io
import re
import uuid
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fracture_ml.core.errors import UnknownItem
from fracture_ml.steps import worklist
from fracture_ml.steps.ai_report import ai_report
from tests.plugins.drawn import POINTS, Drawn, draw_bone, png_of, predict, promote_champion, put_on_list, receive


def drawn(**facts) -> Drawn:
    return Drawn(name=uuid.uuid4().hex, **facts)


class _Shown(HTMLParser):
    """What a reader sees: the words, and the pictures in order."""

    def __init__(self, html: str):
        super().__init__()
        self.words, self.pictures, self.tags = "", [], set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            data = dict(attributes)["src"].removeprefix("data:image/png;base64,")
            self.pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))

    def handle_data(self, data):
        self.words += data + " "


def report_of(stores, settings, study: Drawn) -> _Shown:
    return _Shown(ai_report(stores, settings, study.study_key, made_for="reader"))


def test_a_report_shows_each_image_and_where_the_ai_looked(stores, settings):
    study = drawn(scores=(0.9, 0.1))
    put_on_list(stores, settings, study)
    shown = report_of(stores, settings, study)
    plain, highlighted, below = shown.pictures
    assert plain.shape == highlighted.shape == below.shape == (320, 240, 3)
    grey = draw_bone(int(study.study_key[:8], 16))
    assert np.array_equal(plain[:, :, 0], grey)
    changed = (plain != highlighted).any(axis=2)
    rows, columns = np.nonzero(changed)
    # Attention and box lie around the drawn maximum (column 120, row 192), and leave the corners as they are.
    assert changed[192, 120] and not changed[:100, :40].any() and not changed[-20:].any()
    assert abs(columns.mean() - 120) < 10 and abs(rows.mean() - 190) < 10
    orange = worklist.HIGHLIGHT_COLOUR
    assert tuple(highlighted[150, 120]) == tuple(highlighted[220, 120]) == orange  # the box's edges
    assert (
        "Strongest at the middle of the picture: 90 to 150 px from its left, 150 to 220 px from its top." in shown.words
    )
    assert "frontal, left, 240 x 320 px. AI score 0.900, urgent." in shown.words
    assert "lateral, left, 240 x 320 px. AI score 0.100, no finding flagged." in shown.words
    assert "Image 2 of 2" in shown.words and "not a medical device" in shown.words
    assert "Nobody has reported this study: what stands above is the AI's word alone." in shown.words


def test_a_report_holds_what_people_said_as_they_said_it(stores, settings):
    study = drawn(scores=(0.5,))
    put_on_list(stores, settings, study)
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    said = {"finding": "<b>fracture</b>", "told_by": "a reader", "told_to": "ward 7", "told_how": "by telephone"}
    item = worklist.acknowledge(
        stores, study.study_key, actor="reader", row_version=1, found_at=moment, told_at=moment, **said
    )
    worklist.report(
        stores,
        study.study_key,
        actor="reader",
        row_version=item["row_version"],
        value="positive",
        comment="<script>alert(1)</script> distal radius",
    )
    shown = report_of(stores, settings, study)
    assert "script" not in shown.tags and "b" not in shown.tags
    assert "<script>alert(1)</script> distal radius" in shown.words and "<b>fracture</b>" in shown.words
    assert re.search(r"final read\s+fracture\s+by\s+reader", shown.words)
    assert "a reader; ward 7; by telephone" in shown.words and "2026-01-02 03:04 UTC" in shown.words
    assert "word alone" not in shown.words and "AI score 0.500, suspicious." in shown.words


def test_a_report_says_what_it_lacks(stores, settings):
    study = drawn(scores=(None, 0.9))
    ids = put_on_list(stores, settings, study)
    assert "not scored: corrupt: the decoder refuses the bytes." in report_of(stores, settings, study).words
    unscored, _ = stores.radiographs.stored(ids)
    stores.bucket.delete(unscored.object_key)
    flagged = stores.worklist.item_of(study.study_key)["images"][1]
    stores.bucket.delete(flagged["prediction"]["heat_map_key"])
    shown = report_of(stores, settings, study)
    assert "The image is no longer in the bucket." in shown.words
    assert "the highlight is no longer in the bucket" in shown.words
    assert len(shown.pictures) == 1


def test_without_a_champion_a_report_says_so(fresh_stores, settings):
    study = drawn()
    receive(fresh_stores, study)
    worklist.rank_worklist(fresh_stores, settings)
    words = report_of(fresh_stores, settings, study).words
    assert "AI unavailable" in words and "not scored: it has not been looked at yet." in words


def test_a_report_names_what_the_version_is_known_to_do_on_its_test_split(stores, settings):
    interval = {"value": 0.91, "low": 0.82, "high": 0.97}
    undefined = {"value": None, "low": None, "high": None}
    study = drawn(scores=(0.9,))
    ids = receive(stores, study)
    version = promote_champion(
        stores, metrics={"n": 1234, "at_t_sensitivity": {"sensitivity": interval, "specificity": undefined}}
    )
    predict(stores, version, ids, study.scores)
    worklist.rank_worklist(stores, settings)
    words = report_of(stores, settings, study).words
    worth = "sensitivity 0.91 (0.82 to 0.97), specificity undefined on the 1,234 images of its test split"
    assert f"from {POINTS.t_sensitivity:.3f}: {worth}" in words
    assert f"from {POINTS.t_specificity:.3f}: what it is worth was not measured" in words


def test_a_large_radiograph_is_shown_small_with_its_box_where_it_belongs(stores, settings):
    study = drawn(scores=(0.9,), pictures=(png_of(draw_bone(3, size=(1200, 1600))),))
    put_on_list(stores, settings, study)
    plain, highlighted = report_of(stores, settings, study).pictures
    assert plain.shape == highlighted.shape == (800, 600, 3)
    assert tuple(highlighted[75, 60]) == worklist.HIGHLIGHT_COLOUR  # the box's upper edge, 150 px down in the source


def test_a_study_is_found_by_how_its_key_begins(stores, settings):
    study = drawn()
    put_on_list(stores, settings, study)
    assert stores.worklist.study_key_of(study.study_key[:8]) == study.study_key
    assert stores.worklist.study_key_of(study.study_key) == study.study_key
    put_on_list(stores, settings, drawn())
    for beginning, said in (("", "Several studies"), ("%", "No study"), ("not hexadecimal", "No study")):
        with pytest.raises(UnknownItem, match=said):
            stores.worklist.study_key_of(beginning)
