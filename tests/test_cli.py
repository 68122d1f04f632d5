"""What the command line prints is what there is."""

from typer.testing import CliRunner

from fracture_ml import cli
from fracture_ml.steps import erase, predict


def test_a_file_name_with_brackets_is_printed_as_it_is(monkeypatch):
    monkeypatch.setattr(cli, "_context", lambda: (None, None))
    monkeypatch.setattr(predict, "predict_files", lambda *_, **__: [("[red]a.png", "0.500", "urgent", "[/]")])
    printed = CliRunner().invoke(cli.app, ["predict", "a.png"])
    assert printed.exit_code == 0 and "[red]a.png" in printed.stdout and "[/]" in printed.stdout


def test_what_is_erased_is_counted_first_and_asked_about(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "_context", lambda: (None, None))
    monkeypatch.setattr(erase, "erase", lambda *_, **named: calls.append(named) or {"radiographs": 3})
    asked = ["erase", "--patient", "--actor", "dpo", "--reason", "ticket 12"]
    refused = CliRunner().invoke(cli.app, asked, input="H|77\nn\n")
    assert refused.exit_code == 1 and '"radiographs": 3' in refused.stdout and "77" not in refused.stdout
    assert [call["dry_run"] for call in calls] == [True]
    assert CliRunner().invoke(cli.app, asked, input="H|77\ny\n").exit_code == 0
    assert [call.get("dry_run", False) for call in calls] == [True, True, False]
    assert {call["patient"] for call in calls} == {"H|77"}
    assert CliRunner().invoke(cli.app, [*asked, "--dry-run"], input="H|77\n").exit_code == 0
    assert [call.get("dry_run", False) for call in calls] == [True, True, False, True]
