"""What the command line prints is what there is."""

from typer.testing import CliRunner

from fracture_ml import cli
from fracture_ml.steps import predict


def test_a_file_name_with_brackets_is_printed_as_it_is(monkeypatch):
    monkeypatch.setattr(cli, "_context", lambda: (None, None))
    monkeypatch.setattr(predict, "predict_files", lambda *_, **__: [("[red]a.png", "0.500", "urgent", "[/]")])
    printed = CliRunner().invoke(cli.app, ["predict", "a.png"])
    assert printed.exit_code == 0 and "[red]a.png" in printed.stdout and "[/]" in printed.stdout
