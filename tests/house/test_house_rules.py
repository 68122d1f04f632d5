"""The house rules that a reader can check: the README's tree and commands, no machine's path, no registry's address."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_path_of_the_readmes_tree_exists():
    tree = README.split("```tree\n")[1].split("```")[0]
    named = [line.split()[0] for line in tree.splitlines() if line.strip()]
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_room_stands_in_the_readmes_tree():
    tree = README.split("```tree\n")[1].split("```")[0]
    rooms = [path.name for path in (ROOT / "fracture_ml").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"fracture_ml/{room}/" not in tree] == []


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = set(re.findall(r"`?make ([a-z]+)", README))
    assert asked and asked <= targets


def test_every_fracture_command_of_the_readme_exists():
    from fracture_ml.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    asked = set(re.findall(r"`fracture ([a-z-]+)", README))
    assert asked and asked <= known


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    registry = re.compile(
        r"pypi\.org|pythonhosted|registry\.npmjs|(index-url|find-links) *=|(?<![\w.])/(home|root|work|farm)/\w"
    )
    own = Path(__file__).resolve()
    faults = []
    for path in tracked_files():
        if path == own or path.suffix in {".png", ".jpg", ".dcm"}:
            continue
        faults += [
            f"{path.relative_to(ROOT)}: {hit.group()}" for hit in registry.finditer(path.read_text(errors="replace"))
        ]
    assert faults == []


def test_no_tracked_file_is_over_a_megabyte():
    assert [path.name for path in tracked_files() if path.stat().st_size > 1_000_000] == []


def test_no_python_file_loads_pickled_code():
    unsafe = re.compile(r"weights_only\s*=\s*False|\bpickle\.load|\bjoblib\.load")
    code = [path for path in tracked_files() if path.suffix == ".py" and path != Path(__file__).resolve()]
    assert [path.name for path in code if unsafe.search(path.read_text())] == []
