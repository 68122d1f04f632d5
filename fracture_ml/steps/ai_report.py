"""A study's report, to print or to hand on: what the AI says of each image and where, beside what people said of it.

One HTML file with its pictures in it. Like the worklist page it names no patient, no object and no file.
"""

import io
from datetime import UTC, datetime
from typing import Any

from PIL import Image, ImageDraw

from fracture_ml.core.document import Block, Picture, Section, Table, Text, to_html
from fracture_ml.core.errors import Altered, ObjectNotFound
from fracture_ml.core.records import AiPriority, Box, LabelValue, ModelVersion
from fracture_ml.evaluation.metrics import interval_in_words
from fracture_ml.evaluation.model_card import RESEARCH_USE
from fracture_ml.steps import worklist
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

_LONGEST_PX = 800  # of a picture: a third of a printed page
_READ_WORDS = {
    LabelValue.POSITIVE: "fracture",
    LabelValue.NEGATIVE: "no fracture",
    LabelValue.UNCERTAIN: "uncertain",
}
_SIDES = {"L": "left", "R": "right", "B": "both sides"}
_NO_RULING_OUT = (
    'The AI raises a study\'s priority and never lowers it. "No finding flagged" does not mean that there is no '
    "fracture. A highlighted region is AI attention, not a lesion boundary: it can lie beside the fracture, and shows "
    "one region where there may be several."
)


def ai_report(stores: Stores, settings: Settings, study_key: str, *, made_for: str) -> str:
    """The report as HTML. Args: made_for: who asked for it. Raises: UnknownItem, StorageUnavailable."""
    study = worklist.item(stores, study_key, reader=made_for)
    model = None if study["model_version"] is None else stores.registry.version_of(study["model_version"])
    sections: list[Section] = [
        ("Study", _study(study)),
        ("What the AI says", _ai(study, model)),
        *(
            (f"Image {number} of {study['images']}", _image(stores, settings, image))
            for number, image in enumerate(study["radiographs"], 1)
        ),
        ("What people said", _people(study["events"])),
    ]
    title = f"Fracture AI report: {study['body_part']}, study {study_key[:8]}"
    made = f"Made for {made_for} at {_moment(datetime.now(UTC))}; a later report of this study may say more."
    return to_html(title, RESEARCH_USE, [*sections, ("This report", [Text(made)])])


def _study(study: dict[str, Any]) -> list[Block]:
    held = f", held by {study['holder']}" if study["holder"] else ""
    rows = (
        ("study", study["study_key"]),
        ("region", study["body_part"]),
        ("arrived", _moment(study["arrived_at"])),
        ("ordered priority", study["ordered_priority"]),
        ("priority on the list", study["priority"]),
        ("status", f"{study['status']}{held}"),
    )
    return [Table(("", ""), rows)]


def _ai(study: dict[str, Any], model: ModelVersion | None) -> list[Block]:
    rows = [("AI", study["ai"])]
    if study["score"] is not None and model is not None:
        points = model.operating_points
        rows += [
            ("score", f"{study['score']:.3f}, the highest of the images"),
            ("urgent", f"from {points.t_specificity:.3f}: {_known_of(model, 'at_t_specificity')}"),
            ("suspicious", f"from {points.t_sensitivity:.3f}: {_known_of(model, 'at_t_sensitivity')}"),
            ("model", f"version {model.version}"),
        ]
    if study["images_unscored"]:
        rows.append(("images without a score", str(study["images_unscored"])))
    return [Table(("", ""), tuple(rows)), Text(_NO_RULING_OUT)]


def _known_of(model: ModelVersion, point: str) -> str:
    """What the version's test split showed at an operating point."""
    measured = model.metrics.get(point)
    if measured is None:
        return "what it is worth was not measured"
    figures = (f"{name} {interval_in_words(measured[name], 2)}" for name in ("sensitivity", "specificity"))
    return f"{', '.join(figures)} on the {model.metrics['n']:,} images of its test split"


def _image(stores: Stores, settings: Settings, image: dict[str, Any]) -> list[Block]:
    size = f"{image['width_px']} x {image['height_px']} px"
    taken = [image["view"], _SIDES.get(image["laterality"]), size]
    if image["score"] is None:
        said = f"not scored: {image['reason'] or 'it has not been looked at yet'}"
    else:
        said = f"AI score {image['score']:.3f}, {worklist.AI_WORDS[AiPriority(image['operating_point'])]}"
    blocks: list[Block] = [Text(". ".join([", ".join(filter(None, taken)), said]) + ".")]
    try:
        plain = worklist.image_png(stores, settings, image["radiograph_id"], longest_px=_LONGEST_PX)
    except ObjectNotFound:
        return [*blocks, Text("The image is no longer in the bucket.")]
    except Altered:
        return [*blocks, Text("The image is not shown: what is stored now is not what was stored when it came in.")]
    blocks.append(Picture("plain", "The radiograph", plain, "The radiograph."))
    if image["has_overlay"]:
        blocks += _highlighted(stores, image, plain)
    return blocks


def _highlighted(stores: Stores, image: dict[str, Any], plain: bytes) -> list[Block]:
    try:
        layer = worklist.overlay_png(stores, image["version"], image["radiograph_id"])
    except ObjectNotFound:
        return [Text("The AI highlighted something here, and the highlight is no longer in the bucket.")]
    box = None if image["box"] is None else Box(**image["box"])
    caption = "AI attention, not a lesion boundary."
    if box is not None:
        across, down = (
            f"{start:.0f} to {start + length:.0f}" for start, length in ((box.x, box.width), (box.y, box.height))
        )
        caption += (
            f" Strongest at the {image['place']} of the picture: {across} px from its left, {down} px from its top."
        )
    return [
        Picture("highlighted", "The radiograph with the AI's attention", _laid_over(plain, layer, box, image), caption)
    ]


def _laid_over(plain: bytes, layer: bytes, box: Box | None, image: dict[str, Any]) -> bytes:
    """The picture with the attention and its box over it, a PNG in colour."""
    picture = Image.open(io.BytesIO(plain)).convert("RGBA")
    picture.alpha_composite(Image.open(io.BytesIO(layer)).resize(picture.size, Image.Resampling.BILINEAR))
    if box is not None:
        across, down = picture.width / image["width_px"], picture.height / image["height_px"]
        corners = (box.x * across, box.y * down, (box.x + box.width) * across, (box.y + box.height) * down)
        ImageDraw.Draw(picture).rectangle(corners, outline=worklist.HIGHLIGHT_COLOUR, width=2)
    return worklist.png_of(picture.convert("RGB"))


def _people(events: list[dict[str, Any]]) -> list[Block]:
    said = [_said(event) for event in events if event["event"] in ("acknowledged", "reported")]
    if not any(event["event"] == "reported" for event in events):
        return [Text("Nobody has reported this study: what stands above is the AI's word alone."), *said]
    return said


def _said(event: dict[str, Any]) -> Table:
    details = event["details"]
    if event["event"] == "reported":
        rows = [
            ("final read", _READ_WORDS[LabelValue(details["value"])]),
            ("by", event["actor"]),
            ("at", _moment(event["happened_at"])),
        ]
        if details.get("comment"):
            rows.append(("comment", details["comment"]))
        return Table(("", ""), tuple(rows))
    rows = [
        ("acknowledged by", event["actor"]),
        ("finding", details["finding"]),
        ("found", _moment(datetime.fromisoformat(details["found_at"]))),
        ("told by; to; how", f"{details['told_by']}; {details['told_to']}; {details['told_how']}"),
        ("received", _moment(datetime.fromisoformat(details["told_at"]))),
    ]
    return Table(("", ""), tuple(rows))


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
