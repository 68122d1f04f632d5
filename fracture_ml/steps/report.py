"""What a person reads in a terminal: counts, quarantine, metrics, the list."""

from datetime import UTC

from rich.box import SIMPLE
from rich.table import Table

from fracture_ml.core.records import ModelVersion
from fracture_ml.evaluation.metrics import figure_in_words
from fracture_ml.stores import Stores

_HEADLINE = {
    "AUROC": ("auroc",),
    "AUPRC": ("auprc",),
    "accuracy at 0.5": ("at_half", "accuracy"),
    "sensitivity, suspicious": ("at_t_sensitivity", "sensitivity"),
    "specificity, suspicious": ("at_t_sensitivity", "specificity"),
    "sensitivity, urgent": ("at_t_specificity", "sensitivity"),
    "specificity, urgent": ("at_t_specificity", "specificity"),
    "Brier score": ("brier",),
    "calibration error (ECE)": ("ece",),
    "AUROC of file facts alone": ("shortcut_audit", "auroc"),
}
_PRIORITY_STYLE = {"STAT": "bold red", "URGENT": "yellow", "ROUTINE": ""}


def counts_table(counts: dict, outcomes: dict) -> Table:
    """`counts` of the ingest and `outcomes` of the scoring, as the stores return them."""
    table = Table(
        "received",
        "stored",
        "copies",
        "near dup.",
        "labels",
        "quarantined",
        "scored",
        "not scored",
        box=SIMPLE,
        pad_edge=False,
    )
    table.add_row(
        *(
            f"{number:,}"
            for number in (
                counts["received"],
                counts["radiographs"],
                counts["copies"],
                counts["near_duplicates"],
                counts["label_files"],
                counts["quarantined"],
                outcomes["scored"],
                outcomes["rejected"],
            )
        )
    )
    return table


def quarantine_table(counts: dict) -> Table:
    table = Table("quarantined because", "objects")
    for code, number in sorted(counts["quarantined_by_code"].items()):
        table.add_row(code, f"{number:,}")
    return table


def metrics_table(version: ModelVersion) -> Table:
    """The test split's headline numbers with their 95 % intervals."""
    table = Table(f"model version {version.version}, test split", "value", "95 % interval")
    for name, path in _HEADLINE.items():
        measure = version.metrics
        for key in path:
            measure = measure[key]
        interval = "" if measure["low"] is None else f"{measure['low']:.3f} to {measure['high']:.3f}"
        table.add_row(name, figure_in_words(measure["value"]), interval)
    return table


def worklist_table(stores: Stores, *, limit: int) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)  # all of it in 80 columns
    for heading in ("priority", "AI", "score", "region", "images", "due (UTC)", "study"):
        table.add_column(heading, no_wrap=True)
    for item in stores.worklist.open_items(limit=limit):
        table.add_row(
            item["priority"],
            item["ai"],
            "" if item["score"] is None else f"{item['score']:.3f}",
            item["body_part"],
            str(item["images"]),
            f"{item['due_at'].astimezone(UTC):%H:%M}{' overdue' if item['overdue'] else ''}",
            item["study_key"][:8],
            style=_PRIORITY_STYLE[item["priority"]],
        )
    return table
