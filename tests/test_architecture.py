"""The structure of the package: imports only go down, and a third-party package has its owners."""

import ast
import collections
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.kaggle.launcher import package_files

PACKAGE = Path(__file__).parent.parent / "kaggle_runner"

OPEN = {"errors", "events", "files", "wording", "metrics", "mounts", "config", "config_charlm", "config_fields"}
"""Modules that every room may import; they import nothing but each other."""

OWNERS = {
    "torch": {"training.models.written_answers",
              "training.models.base_model", "training.models.bare_model", "training.models.attention",
              "training.models.char_model", "training.loss", "training.finetune", "training.libraries",
              "training.phases", "training.checkpoint", "training.cpu_speed", "training.warm_finetune",
              "training.charlm",
              "training.warm_charlm", "training.muon", "training.optimizers", "training.data.windows",
              "training.adapter_buffer", "training.parallel.team", "training.layer.attention", "training.layer.decoder",
              "training.layer.elementwise", "training.layer.install", "training.layer.projection",
              "training.layer.structure", "training.layer.triton_elementwise",
              "memory.predict", "memory.trace", "memory.live_bytes", "memory.fake_kernels", "memory.timeline",
              "run.worker", "model.tensor_files", "model.merge", "model.measured", "model.export",
              "model.talk.answers", "model.talk.characters"},
    "transformers": {"training.models.written_answers",
                     "training.models.base_model", "training.models.model_check", "training.models.tokenizer",
                     "training.models.bare_model", "training.models.attention", "training.finetune",
                     "training.libraries", "model.measured", "model.talk.answers", "model.local_programs"},
    "safetensors": {"model.merge"},
    "huggingface_hub": {"kaggle.hub_name", "training.hub", "model.base_files", "model.publish"},
    "peft": {"training.finetune", "training.libraries"},
    "bitsandbytes": {"model.merge", "training.models.base_model", "training.finetune", "training.libraries",
                     "memory.fake_kernels", "training.layer.projection", "training.layer.structure"},
    "triton": {"training.layer.triton_kernels"},
    "accelerate": {"training.finetune"},
    "wandb": {"wandb.sweep", "wandb.connection", "wandb.run", "wandb.agent", "wandb.jobs", "wandb.offline",
              "wandb.checkpoints", "wandb.confirm", "wandb.fetch", "wandb.answers", "wandb.ends.reclaim",
              "wandb.here.runs", "wandb.here.search_here"},
    "datasets": {"training.data.sources"},
    "optuna": {"run.optuna_journal", "run.points.optuna_samplers", "run.shared.database", "run.shared.record",
               "run.shared.studies"},
    "sqlalchemy": {"run.shared.database", "run.shared.record", "run.shared.studies", "run.shared.tables"},
    "yaml": {"sweep.yaml_file", "training.data.folders"},
    "slugify": {"kaggle.folder", "kaggle.order"},
    "click": {"cli.help", "cli.params", "cli.words", "cli.main", "cli.shared", "cli.sweep", "cli.kernel", "cli.plan",
              "cli.look", "cli.lab", "cli.model", "cli.conversation", "cli.remote.sweep"},
    "rich": {"cli.progress"},
    "plotly": {"report.page"},
    "matplotlib": {"report.png"},
    "nbformat": {"report.notebook"},
    "nbclient": {"report.notebook"},
}
"""Who may import a package. Each of torch's modules is one noun of the training code, and none is imported by a command
that does not train."""


def room_table():
    """Return room -> rooms it may import, as docs/architecture.md says."""
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text, flags=re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}


ROOMS = room_table()


def room_of(module):
    return module.split(".")[0]


def imports_of(path):
    """Return the names of all modules that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return found


def modules():
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
            if path.stem != "__init__"}


def own_imports(path):
    names = {name.removeprefix("kaggle_runner.") for name in imports_of(path) if name.startswith("kaggle_runner.")}
    return names & modules().keys()


def test_the_table_has_every_room_and_no_other():
    assert {room_of(name) for name in modules() if "." in name} == ROOMS.keys()
    assert {name for name in modules() if "." not in name} <= OPEN | {"__main__"}


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_what_its_room_may(name):
    allowed = {"cli"} if name == "__main__" else {room_of(name), *ROOMS.get(room_of(name), ())}
    strangers = {other for other in own_imports(modules()[name])
                 if other not in OPEN and room_of(other) not in allowed}
    assert not strangers, f"{name} imports {sorted(strangers)}, which docs/architecture.md does not allow"


def test_no_room_is_in_a_circle():
    rooms = {room: set(allowed) for room, allowed in ROOMS.items()}
    while rooms:
        free = {room for room, allowed in rooms.items() if not allowed & rooms.keys()}
        assert free, f"these rooms may import each other in a circle: {sorted(rooms)}"
        rooms = {room: allowed for room, allowed in rooms.items() if room not in free}


def test_there_is_no_circle():
    graph = {name: own_imports(path) - {name} for name, path in modules().items()}
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"these import each other in a circle: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_package_is_imported_by_its_owners_only(package):
    users = {name for name, path in modules().items()
             if any(module.split(".")[0] == package for module in imports_of(path))}
    assert users <= OWNERS[package], f"{sorted(users - OWNERS[package])} import {package}"


def test_the_program_kaggle_is_never_imported():
    """Importing it authenticates, with a network call."""
    assert not [name for name, path in modules().items() if "kaggle" in imports_of(path)]


def test_nobody_imports_the_front_door_or_the_reports():
    for room, allowed in ROOMS.items():
        assert "cli" not in allowed
        assert room == "cli" or "report" not in allowed


def test_what_is_for_ones_own_machine_never_rides_to_a_kernel():
    rode = {Path(name).parts[1] for command in ("agent", "sweep") for name in package_files(command)}
    assert {"kernel", "run", "wandb", "training", "report", "cli"} <= rode
    assert not rode & {"kaggle", "lab", "model"}


@pytest.mark.parametrize("arguments", [["--help"], ["detect", "--json"], ["show", "nowhere"]])
def test_light_commands_import_no_heavy_package(arguments):
    heavy = {"torch", "transformers", "optuna", "numpy", "wandb", "datasets", "plotly", "matplotlib", "rich"}
    script = ("import contextlib, sys\nfrom kaggle_runner.cli import main\n"
              "with contextlib.suppress(SystemExit):\n    main(sys.argv[1:])\n"
              "print('LOADED', ' '.join(sorted(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=250)
    loaded = set(done.stderr.split("LOADED")[1].split())
    assert not loaded & heavy


def test_modules_and_folders_are_of_a_size_to_read():
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: count for name, count in lines.items() if count > 400}
    assert statistics.median(lines.values()) <= 200
    folders = collections.Counter(path.parent for path in modules().values())
    assert not {folder.name: count for folder, count in folders.items() if count > 15}
