"""The document that reviewers ask for: one content, as Markdown and as one HTML file with its pictures in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fracture_ml.core.document import Block, Picture, Points, Section, Table, Text, to_html, to_markdown
from fracture_ml.core.records import LabelMeaning
from fracture_ml.evaluation.metrics import figure_in_words, interval_in_words

RESEARCH_USE = (
    "Research use only. This is not a medical device. It must not be used to diagnose, to decide on treatment, or to "
    "leave an image unread."
)
_INTENDED = (
    "Intended: to order a worklist of musculoskeletal radiographs so that likely fractures are read earlier, by people "
    "who read every image in any case."
)
_NOT_INTENDED = (
    "Not intended: to rule a fracture out, to replace a reader, to lower a priority, for other findings, for other "
    "modalities, or for populations and devices that the data below do not hold."
)
_HEAT_MAP = {  # by what the network shows
    "places": "the chance of a fracture in each cell of 8 x 8 pixels of the network's input, learned from drawn boxes",
    "evidence": (
        "where the last feature map raises the score above the image's own mean, 32 times coarser than the network's "
        "input"
    ),
}
_HEAT_MAP_CAVEAT = "It can lie beside the fracture, and its box shows one region where there may be several."
_FAILURE_MODES = (
    "Hardware and casts: they occur with fractures, and can raise the score by themselves.",
    "Growth plates of children look like fracture lines.",
    "Several fractures in one image: one score, and one region at most.",
    "Hairline fractures: a fracture's median box covers 0.4 % of the image, a few pixels at the network's input.",
    "Regions, views and devices that are rare or absent in the data listed here: the score means little there.",
)
_ABNORMAL = (
    "Most positive labels here say 'abnormal', which is more than a fracture: hardware, casts, arthrosis, lesions. "
    "What this card calls a fracture is an abnormality, and the score is the chance of one."
)
_POINTS = (("t_sensitivity", "at_t_sensitivity"), ("t_specificity", "at_t_specificity"), ("0.5", "at_half"))
_AT_POINT = (
    ("accuracy", "Accuracy"),
    ("sensitivity", "Sensitivity"),
    ("specificity", "Specificity"),
    ("ppv", "PPV"),
    ("npv", "NPV"),
    ("f1", "F1"),
    ("kappa", "Cohen's kappa"),
    ("ppv_at_site_prevalence", "PPV at the site's prevalence"),
    ("alerts_per_100_studies", "Alerts per 100 studies"),
)
_NOT_RECORDED = "Not recorded."


def render(card: Mapping[str, Any]) -> tuple[str, str]:
    """The model card as (Markdown, HTML). What `card` lacks is said to be not recorded, never left out.

    Args:    card, all of it optional: "version", "created_at", "snapshot_id", "recipe_id", "code_version" and
             "bundle_sha256" (str or int); "data": {subgroup: {value: n}};
             "splits": {split: {"positive": n, "negative": n}}; "left_out": {reason: n};
             "not_readable": {split: {code: n}}; "leakage": a sentence;
             "positive_means": "fracture" or "abnormal"; "labels": [{"source", "meaning", "positive", "negative"}];
             "looks_at_the_test_split": n; "recipe": dict;
             "initial_weights": a sentence; "study_folder": a key prefix; "heat_map": "places" or "evidence";
             "libraries": {name: version}; "metrics": of `evaluate`; "subgroups": of
             `subgroup_table`; "operating_points": dict; "calibration": dict; "shortcut_audit": of `audit`;
             "verdict": {"passed", "reasons", "measures"} of the gate; "events": [{"event", "actor", "happened_at",
             "reason"}]; "figures": {name: PNG bytes}, named like the functions of `figures`. The Markdown refers to a
             figure as `<name>.png` beside it; the HTML holds them.
    """
    title = f"Model card: fracture detection, version {card.get('version', 'not registered')}"
    sections = _sections(card)
    return to_markdown(title, RESEARCH_USE, sections), to_html(title, RESEARCH_USE, sections)


def _sections(card: Mapping[str, Any]) -> list[Section]:
    return [
        ("Intended use", _intended_use()),
        ("What it is", _identity(card)),
        ("Data", _data(card)),
        ("Splits and leakage checks", _splits(card)),
        ("Recipe", _recipe(card)),
        ("Training", _pictures(card, loss_plot="Loss", accuracy_plot="Accuracy")),
        ("Operating points", _operating_points(card)),
        ("Performance on the locked test split", _performance(card)),
        ("Subgroups", _subgroups(card)),
        ("Calibration", _calibration(card)),
        ("Shortcut audit", _shortcuts(card)),
        ("Known failure modes", [Points(_FAILURE_MODES)]),
        ("Heat maps", [Text(_heat_map(card))]),
        ("Change against the champion", _verdict(card)),
        ("Approval and history", _events(card)),
    ]


def _heat_map(card: Mapping[str, Any]) -> str:
    shown = _HEAT_MAP.get(card.get("heat_map"), "what it shows is not recorded")
    return f"The highlighted region is AI attention, not a lesion boundary: {shown}. {_HEAT_MAP_CAVEAT}"


def _intended_use() -> list[Block]:
    return [
        Points(
            (
                _INTENDED,
                _NOT_INTENDED,
                "The reference standard is the label described below, not follow-up or CT.",
            )
        ),
    ]


def _identity(card: Mapping[str, Any]) -> list[Block]:
    names = ("version", "created_at", "snapshot_id", "recipe_id", "bundle_sha256", "code_version")
    rows: list[tuple[str, str]] = [("architecture", "ResNet50, one input channel, two outputs")]
    rows += [(name.replace("_", " "), str(card.get(name, "not recorded"))) for name in names]
    return [Table(("", ""), tuple(rows))]


def _data(card: Mapping[str, Any]) -> list[Block]:
    counts = card.get("data")
    if not counts:
        return [Text(_NOT_RECORDED)]
    blocks: list[Block] = []
    if card.get("positive_means") == LabelMeaning.ABNORMAL:
        blocks.append(Text(_ABNORMAL))
    if card.get("labels"):
        of_labels = [
            (row["source"], row["meaning"], f"{row['positive']:,}", f"{row['negative']:,}") for row in card["labels"]
        ]
        blocks.append(Table(("label's source", "what it speaks of", "positive", "negative"), tuple(of_labels)))
    rows = [(kind.replace("_", " "), str(value), f"{n:,}") for kind, of in counts.items() for value, n in of.items()]
    return [*blocks, Table(("by", "value", "n"), tuple(rows))]


def _splits(card: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if card.get("splits"):
        rows = [
            (split, f"{n['positive'] + n['negative']:,}", f"{n['positive']:,}", f"{n['negative']:,}")
            for split, n in card["splits"].items()
        ]
        blocks.append(Table(("split", "radiographs", "fracture", "no fracture"), tuple(rows)))
    blocks.append(
        Text(
            "A split belongs to the group (patient, else study, else near-duplicate cluster), by hash: no group stands "
            f"on two sides. Leakage check: {card.get('leakage', 'not recorded')}"
        )
    )
    if card.get("left_out"):
        blocks.append(Points(tuple(f"Left out: {n:,}, {reason}" for reason, n in card["left_out"].items())))
    for split, reasons in card.get("not_readable", {}).items():
        said = ", ".join(f"{code}: {n:,}" for code, n in reasons.items())
        blocks.append(
            Text(f"Of the {split} split {sum(reasons.values()):,} could not be read and were not used ({said}).")
        )
    looks = card.get("looks_at_the_test_split")
    blocks.append(
        Text(
            "Looks so far at this test split, or at that of a snapshot which shares radiographs with it: "
            f"{'not recorded' if looks is None else looks}."
        )
    )
    return blocks


def _recipe(card: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for name, head in (("recipe", "recipe"), ("libraries", "library")):
        if card.get(name):
            rows = tuple((str(key), _plain(value)) for key, value in card[name].items())
            blocks.append(Table((head, "value" if name == "recipe" else "version"), rows))
    if card.get("initial_weights"):
        blocks.append(Text(f"Initial weights: {card['initial_weights']}"))
    if card.get("study_folder"):
        blocks.append(
            Text(
                f"Its tuning, as a table and pictures of the trials that ended: {card['study_folder']}/ in the bucket."
            )
        )
    return blocks or [Text(_NOT_RECORDED)]


def _operating_points(card: Mapping[str, Any]) -> list[Block]:
    points = card.get("operating_points")
    if not points:
        return [Text(_NOT_RECORDED)]
    return [
        Text(
            "Chosen on the validation split, on calibrated scores, and reported on the test split. t_sensitivity: the "
            "highest threshold whose sensitivity meets its target (suspicious), and never above the other one. "
            "t_specificity: the lowest threshold whose specificity meets its target (urgent)."
        ),
        Table(
            ("", "threshold", "target"),
            tuple(
                (f"t_{side}", f"{points[f't_{side}']:.4f}", f"{side} {points[f'target_{side}']:.2f}")
                for side in ("sensitivity", "specificity")
            ),
        ),
    ]


def _performance(card: Mapping[str, Any]) -> list[Block]:
    metrics = card.get("metrics")
    if not metrics:
        return [Text(_NOT_RECORDED)]
    blocks: list[Block] = [
        Text(
            f"{metrics['n']:,} radiographs of {metrics['groups']:,} groups, {metrics['positives']:,} with a fracture "
            f"({metrics['prevalence']:.1%}). In brackets: 95 % intervals, resampled by group {metrics['resamples']:,} "
            f"times. The site's prevalence is taken as {metrics['site_prevalence']:.1%}; each image counts as a study."
        ),
        Table(
            ("figure", "value"),
            tuple(
                (name, interval_in_words(metrics[key]))
                for key, name in (("auroc", "AUROC"), ("auprc", "AUPRC"), ("brier", "Brier score"), ("ece", "ECE"))
            ),
        ),
        Table(
            ("figure", *(f"at {name} ({metrics[key]['threshold']:.3f})" for name, key in _POINTS)),
            tuple(
                (name, *(interval_in_words(metrics[key][figure], 1 if "alerts" in figure else 3) for _, key in _POINTS))
                for figure, name in _AT_POINT
            ),
        ),
        Table(
            ("confusion", *(f"at {name}" for name, _ in _POINTS)),
            tuple(
                (name, *(f"{metrics[key]['confusion'][cell]:,}" for _, key in _POINTS))
                for cell, name in (
                    ("tp", "fractures flagged"),
                    ("fn", "fractures missed"),
                    ("fp", "others flagged"),
                    ("tn", "others not flagged"),
                )
            ),
        ),
    ]
    return blocks + _pictures(
        card,
        otherwise=False,
        roc_plot="ROC curve",
        precision_recall_plot="Precision and recall",
        confusion_plot="Confusion matrices",
        score_histogram="Scores",
    )


def _subgroups(card: Mapping[str, Any]) -> list[Block]:
    table = card.get("subgroups")
    if not table:
        return [Text(_NOT_RECORDED)]
    rows = tuple(
        (
            row["subgroup"].replace("_", " "),
            row["value"],
            f"{row['n']:,}",
            f"{row['positives']:,}",
            *(
                "too few" if row[key] is None else interval_in_words(row[key])
                for key in ("auroc", "sensitivity", "specificity")
            ),
        )
        for row in table["rows"]
    )
    gap = table["worst_gap"]
    sentence = (
        "No subgroup was large enough to be named the worst."
        if gap is None
        else f"The worst subgroup is {gap['subgroup'].replace('_', ' ')} = {gap['value']} (n = {gap['n']:,}): AUROC "
        f"{gap['auroc']:.3f}, a gap of {gap['gap']:.3f} to the {gap['overall_auroc']:.3f} of all images."
    )
    return [
        Text(
            f"{sentence} Sensitivity and specificity at t_sensitivity; figures from n = "
            f"{table['min_n']}, the worst from {table.get('min_of_class', 1)} fractures and as many others."
        ),
        Table(("by", "value", "n", "fractures", "AUROC", "sensitivity", "specificity"), rows),
    ]


def _calibration(card: Mapping[str, Any]) -> list[Block]:
    fit = card.get("calibration")
    text = (
        _NOT_RECORDED
        if not fit
        else f"Calibrated score = sigmoid(margin / {fit['temperature']:.3f} {fit['bias']:+.3f}), fitted on the "
        "validation split; margin = the logit of fracture - the logit of none."
    )
    return [Text(text), *_pictures(card, otherwise=False, reliability_plot="Calibration")]


def _shortcuts(card: Mapping[str, Any]) -> list[Block]:
    audit = card.get("shortcut_audit")
    if not audit:
        return [Text(_NOT_RECORDED)]
    blocks: list[Block] = [
        Text(
            "How well facts that are not the bone predict the label, learnt on the training split without the pixels, "
            f"on {audit['n_test']:,} test radiographs. The model's AUROC is to be read beside it."
        ),
        Table(
            ("known of the image", "AUROC"),
            tuple(
                (name, interval_in_words(audit[key]))
                for key, name in (
                    ("auroc", "the file: size, bytes, format"),
                    ("auroc_of_tags", "its tags: body part, view, hardware, sex, age, device"),
                    ("auroc_of_both", "both"),
                )
                if key in audit
            ),
        ),
        Table(
            ("fact alone", "AUROC"),
            tuple((name.replace("_", " "), figure_in_words(value)) for name, value in audit["by_fact"].items()),
        ),
    ]
    if audit.get("model_auroc_within_strata") is not None:
        within = audit["model_auroc_within_strata"]
        blocks.append(
            Text(f"The model's AUROC within {audit['strata']} strata of that shortcut: {figure_in_words(within)}.")
        )
    return blocks


def _verdict(card: Mapping[str, Any]) -> list[Block]:
    verdict = card.get("verdict")
    if not verdict:
        return [Text("Not judged yet.")]
    blocks: list[Block] = [
        Text(f"The gate {'passed' if verdict['passed'] else 'failed'} this version."),
        Points(tuple(verdict["reasons"])),
    ]
    if rule := verdict.get("measures", {}).get("rule"):
        rows = tuple((name, _plain(value)) for name, value in rule.items())
        blocks.append(Table(("the gate's rule (change control)", "value"), rows))
    return blocks


def _events(card: Mapping[str, Any]) -> list[Block]:
    events: Sequence[Mapping[str, Any]] = card.get("events") or ()
    if not events:
        return [Text("Nobody has approved this version yet.")]
    names = ("happened_at", "event", "actor", "reason")
    return [Table(("when", "what", "who", "why"), tuple(tuple(str(event[name]) for name in names) for event in events))]


def _pictures(card: Mapping[str, Any], otherwise: bool = True, **titles: str) -> list[Block]:
    figures = card.get("figures") or {}
    found: list[Block] = [Picture(name, title, figures[name]) for name, title in titles.items() if name in figures]
    return found or ([Text(_NOT_RECORDED)] if otherwise else [])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
