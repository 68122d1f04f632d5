"""`fracture`: the same steps as the DAGs, without Airflow, and the embedded servers."""

import getpass
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fracture_ml.core.errors import FractureError
from fracture_ml.steps.presets import PRESETS

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
stack_app = typer.Typer(no_args_is_help=True, help="The embedded Postgres, S3 and Airflow of this machine.")
app.add_typer(stack_app, name="stack")
console = Console()
log = logging.getLogger(__name__)

_PRESET = typer.Option(help=", ".join(PRESETS))
Preset = Annotated[str, _PRESET]
SnapshotId = Annotated[str, typer.Argument(help="as `fracture snapshot` printed it")]


def main() -> None:
    """Run a command; an error of ours is one sentence and exit code 1."""
    from fracture_ml.steps.settings import reach_loopback_directly

    reach_loopback_directly()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for talkative in ("alembic", "botocore", "httpx"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        app()
    except FractureError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
        sys.exit(1)


def _context():
    from fracture_ml.steps.context import open_context
    from fracture_ml.steps.settings import load_settings

    settings = load_settings()
    return open_context(settings), settings


def _print(value: Any) -> None:
    console.print_json(json.dumps(value, default=str))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to this code."""
    from fracture_ml.steps.settings import load_settings
    from fracture_ml.stores.database import migrate as migrate_database

    migrate_database(load_settings().database_url.get_secret_value())
    console.print("The schema is up to date.")


@app.command()
def ingest(
    threads: Annotated[int, typer.Option(min=1, max=64)] = 4,
    retry: Annotated[str | None, typer.Option(help="a code of the quarantine: look at these objects anew")] = None,
) -> None:
    """Give every new object of the inbox its outcome, and list new studies (DAG: ingest_radiographs)."""
    from fracture_ml.steps.ingest import ingest_inbox
    from fracture_ml.steps.worklist import rank_worklist

    context = _context()
    objects = ingest_inbox(*context, threads=threads, retry_quarantined=retry)
    _print({"objects": objects, "worklist": rank_worklist(*context, arrivals_only=True)})


@app.command()
def snapshot(force: bool = False) -> None:
    """Freeze the labelled radiographs; prints the snapshot's id (DAG: retrain_nightly)."""
    from fracture_ml.steps.snapshot import freeze_snapshot, split_plan

    stores, settings = _context()
    snapshot_id = freeze_snapshot(stores, as_of=datetime.now(UTC), force=force, plan=split_plan(settings))
    console.print(snapshot_id or "Nothing is new since the last trained snapshot; --force freezes it all the same.")


@app.command()
def tune(snapshot_id: SnapshotId, preset: Preset = "nightly") -> None:
    """Cross-validate recipes, beside others that do the same; prints the winner so far (DAG: retrain_nightly)."""
    from fracture_ml.steps import choose_recipe as choosing
    from fracture_ml.steps import tune as tuning
    from fracture_ml.steps.presets import plan_of

    stores, settings = _context()
    tuned = tuning.tune(stores, settings, snapshot_id=snapshot_id, work=plan_of({"preset": preset}))
    _print(choosing.choose_recipe(stores, settings, tuned=[tuned]))


@app.command()
def train(
    snapshot_id: SnapshotId,
    preset: Preset = "nightly",
    recipe: Annotated[
        Path | None, typer.Option(help="what `fracture tune` printed, or a recipe's JSON; instead of the preset's")
    ] = None,
) -> None:
    """Train, evaluate on the locked test split, and register the challenger (DAG: retrain_nightly)."""
    from fracture_ml.steps import register as registering
    from fracture_ml.steps import train as training
    from fracture_ml.steps.presets import plan_of

    stores, settings = _context()
    chosen = json.loads(recipe.read_text()) if recipe else plan_of({"preset": preset}).recipe.to_json()
    tuned = chosen if "study_name" in chosen else {"study_name": None, "recipe": chosen}
    trained = training.train(stores, settings, snapshot_id=snapshot_id, recipe=tuned["recipe"])
    version = registering.evaluate_and_register(
        stores, settings, snapshot_id=snapshot_id, study_name=tuned["study_name"], trained=trained
    )
    console.print(f"version {version}")


@app.command()
def judge(version: int) -> None:
    """The gate's verdict of a version (DAG: promote_model)."""
    from fracture_ml.steps import promote as steps

    stores, settings = _context()
    _print(steps.judge_challenger(stores, settings, version=version))


@app.command()
def promote(version: int, actor: Annotated[str, typer.Option(help="who decides")]) -> None:
    """Make a version the champion, as a person's decision (DAG: promote_model)."""
    from fracture_ml.steps import promote as steps

    stores, _ = _context()
    steps.promote(stores, version=version, actor=actor, approved=True)
    console.print(f"Version {version} is the champion.")


@app.command("roll-back")
def roll_back(
    reason: Annotated[str, typer.Option(help="why; kept in the history")],
    actor: Annotated[str, typer.Option(help="who decides")],
    to_version: int | None = None,
) -> None:
    """Make an earlier version the champion again; the list shows its scores at once."""
    from fracture_ml.steps import promote as steps
    from fracture_ml.steps.worklist import rank_worklist

    stores, settings = _context()
    version = steps.roll_back(stores, actor=actor, reason=reason, to_version=to_version)
    console.print(f"Version {version} is the champion again; what it has not scored yet, the next run does.")
    rank_worklist(stores, settings)


@app.command()
def score(
    batch_size: Annotated[int, typer.Option(min=1)] = 2000,
    retry: Annotated[
        str | None,
        typer.Option(help="a code: score anew what has this reason in place of a score (not_readable)"),
    ] = None,
) -> None:
    """Score all that is due, rank the worklist, and reconcile (DAG: score_hourly)."""
    from fracture_ml.steps import scoring_run
    from fracture_ml.steps.monitor import watch
    from fracture_ml.steps.score import score_batch
    from fracture_ml.steps.worklist import rank_worklist

    stores, settings = _context()
    plan = scoring_run.plan_scoring(stores, retry_unscored=retry)
    failure = None
    try:
        for batch in scoring_run.cut_batches(stores, batch_size=batch_size, **plan):
            score_batch(stores, settings, **batch)
    except Exception as fault:  # what could not be scored must be on the list all the same
        failure = fault
    try:
        ranked = rank_worklist(stores, settings, version=plan["version"])
        watch(stores, at=datetime.now(UTC))
        outcomes = scoring_run.reconcile(stores, **plan)
    except Exception as fault:
        if failure is None:
            raise
        log.error("%s", fault)
    if failure is not None:
        raise failure
    _print({"outcomes": outcomes, "worklist": ranked})
    if outcomes["missing"]:
        console.print("Another version became the champion meanwhile: run this again, and it scores by that one.")
        raise typer.Exit(1)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or DICOM files")],
    overlays: Annotated[
        Path | None, typer.Option(file_okay=False, help="write the highlighted images into this folder")
    ] = None,
) -> None:
    """Score files with the champion; nothing is stored. Exit code 1 where a file could not be scored."""
    from fracture_ml.steps.predict import predict_files

    stores, settings = _context()
    table = Table(title="Research use only, not a medical device")
    table.add_column("file", overflow="fold")
    for head in ("fracture", "operating point", "box (x, y, width, height)"):
        table.add_column(head)
    rows = list(predict_files(stores, settings, images, overlays=overlays))
    for row in rows:
        table.add_row(*map(escape, row))  # a path may hold brackets
    console.print(table)
    if not all(operating_point for _, _, operating_point, _ in rows):
        raise typer.Exit(1)


@app.command()
def worklist(limit: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """The open studies, most urgent first."""
    from fracture_ml.steps.report import worklist_table
    from fracture_ml.steps.worklist import behind

    stores, _ = _context()
    console.print(worklist_table(stores, limit=limit))
    for step in behind(stores):
        since = f"since {step['since']:%Y-%m-%d %H:%M} UTC" if step["since"] else "yet"
        console.print(f"[bold red]{step['what']} {since}.[/]")


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="its key, or how it begins: what `fracture worklist` prints")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="the HTML file to write")],
) -> None:
    """A listed study's report: what the AI says of each image and where, beside what people said."""
    from fracture_ml.steps.ai_report import ai_report

    stores, settings = _context()
    study_key = stores.worklist.study_key_of(study)
    out.write_text(ai_report(stores, settings, study_key, made_for=getpass.getuser()), encoding="utf-8")
    console.print(f"{out}: study {study_key}")


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="its key, or how it begins: what `fracture worklist` prints")],
    out: Annotated[Path, typer.Option(file_okay=False, help="the folder to write into")],
    dicom: Annotated[bool, typer.Option("--dicom", help="also a structured report and secondary captures")] = False,
    identified: Annotated[
        bool, typer.Option("--identified", help="as the inbox's files name them: the files name the patient")
    ] = False,
) -> None:
    """A listed study's AI results for other systems: JSON, highlights, DICOM objects."""
    from fracture_ml.steps.export import export_results

    stores, settings = _context()
    study_key = stores.worklist.study_key_of(study)
    _print(export_results(stores, settings, study_key, folder=out, dicom=dicom, identified=identified))


@app.command()
def monitor() -> None:
    """Write today's drift report and alerts (DAG: monitor_daily)."""
    from fracture_ml.steps.monitor import write_report

    stores, settings = _context()
    _print(write_report(stores, settings, at=datetime.now(UTC)))


@app.command()
def prune(dry_run: Annotated[bool, typer.Option(help="count, and delete nothing")] = False) -> None:
    """Delete old pictures that no listed study shows, and checkpoints of trainings that were given up."""
    from fracture_ml.steps.prune import prune as prune_bucket

    stores, _ = _context()
    _print(prune_bucket(stores, at=datetime.now(UTC), dry_run=dry_run))


@app.command()
def erase(
    actor: Annotated[str, typer.Option(help="who erases")],
    reason: Annotated[str, typer.Option(help="why, as a ticket's number; kept for ever: no name, no patient's ID")],
    study: Annotated[str | None, typer.Option(help="its key, or how that begins, on the worklist")] = None,
    patient: Annotated[
        bool, typer.Option("--patient", help="all of a patient's studies: asks for the ID, as ISSUER|ID or ID")
    ] = False,
    object_key: Annotated[str | None, typer.Option("--object", help="key of an object in the inbox")] = None,
    whole_patient: Annotated[
        bool, typer.Option("--whole-patient", help="with --study or --object: all studies of the same patient")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="count, and delete nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete a study, or all of a patient's, for good: images, highlights, scores, labels, reads, inbox objects."""
    from fracture_ml.steps.erase import erase as erase_for_good

    stores, settings = _context()
    patient_id = typer.prompt("The patient's ID", hide_input=True) if patient else None
    named = {"study": study, "patient": patient_id, "object_key": object_key, "whole_patient": whole_patient}
    found = erase_for_good(stores, settings, actor=actor, reason=reason, dry_run=True, **named)
    _print(found)
    if dry_run:
        return
    if not yes:
        typer.confirm("Nothing brings this back. Erase it?", abort=True)
    _print(erase_for_good(stores, settings, actor=actor, reason=reason, **named))


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="a folder of your own radiographs with labels")] = None,
    preset: Annotated[str | None, _PRESET] = None,
) -> None:
    """Run the main job on this machine, from an empty folder to a filled worklist, through Airflow."""
    from fracture_ml.demo.run import run_demo

    if not run_demo(console, data=data, preset=preset):
        raise typer.Exit(1)


@stack_app.command()
def up() -> None:
    """Start everything; says where to look."""
    from fracture_ml import stack

    stack.up(console)


@stack_app.command()
def down() -> None:
    """Stop everything; the data stay."""
    from fracture_ml import stack

    stack.down(console)


@stack_app.command()
def status() -> None:
    """What runs."""
    from fracture_ml import stack

    stack.status(console)


if __name__ == "__main__":
    main()
