"""The structure of the package: imports only go down, and a third-party package has its owners."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kaggle_runner"

LAYERS = [
    {"errors"},
    {"config_fields", "schedule", "windows"},
    {"config", "study", "distributions", "beta", "builtin_docs", "formats", "batches", "credentials", "gpu", "findings",
     "phases", "loss", "live_bytes", "timeline", "fake_kernels", "surrogate", "importance", "axes", "curves", "noise",
     "tables", "progress", "failures", "gpu_lock", "study_files",
     "trial_control", "known_gpus"},
    {"secrets", "machine", "environment", "budget", "session"},
    {"sweep_sections", "sweep_fit", "sweep_parameters", "sweep", "rungs", "worker_process", "checkpoint", "base_model",
     "data", "tokens", "model_shapes", "cpu_speed", "attention", "bare_model",
     "char_data", "char_model", "muon", "optimizers", "decision", "vary_spec", "final_sweep", "lanes"},
    {"launcher", "kernel_packages", "kaggle_program", "kernel_watch", "kernel_sessions", "kernel_secrets", "kernel",
     "kernel_order", "kernel_command", "kernel_result", "kernel_main"},
    {"finetune", "charlm", "finetune_work", "charlm_work", "pretrain"},
    {"memory_trace", "memory", "fit", "plan", "supervisor", "worker"},
    {"optuna_search", "optuna_journal", "optuna_sweep"},
    {"one_at_a_time", "tuning_plan", "plan_summary"},
    {"embedded_sweep", "wandb_jobs", "wandb_run", "wandb_offline", "wandb_checkpoints", "wandb_sweep", "wandb_agent",
     "wandb_agents", "wandb_study"},
    {"tuning_run", "archive"},
    {"analysis"},
    {"report_style", "report_png", "report_sentences", "report_figures", "report_maps", "report_compare",
     "report_files", "report_page", "report_notebook", "report", "report_lab"},
    {"cli_run"},
    {"cli_agent", "cli_kernel", "cli_plan", "cli_lab"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up; modules of one layer may import each other as long as there is no circle."""

OWNERS = {
    "torch": {"base_model", "loss", "finetune", "worker", "phases", "checkpoint", "pretrain", "memory", "memory_trace",
              "live_bytes", "fake_kernels", "timeline", "cpu_speed", "bare_model", "attention",
              "finetune_work", "charlm", "charlm_work", "char_model", "muon", "optimizers", "windows"},
    "transformers": {"base_model", "finetune", "pretrain", "bare_model", "attention"},
    "peft": {"finetune"},
    "bitsandbytes": {"base_model", "finetune", "fake_kernels"},
    "accelerate": {"finetune"},
    "wandb": {"wandb_sweep", "wandb_run", "wandb_agent", "wandb_jobs", "wandb_offline", "wandb_checkpoints",
              "wandb_study"},
    "datasets": {"data"},
    "optuna": {"optuna_journal", "optuna_search"},
    "yaml": {"sweep"},
    "click": {"cli", "cli_run", "cli_agent", "cli_kernel", "cli_plan", "cli_lab"},
    "rich": {"progress"},
    "plotly": {"report_page"},
    "matplotlib": {"report_png"},
    "nbformat": {"report_notebook"},
    "nbclient": {"report_notebook"},
}
"""Who may import a package. Beyond the design's two for torch and transformers: each of these modules is one noun of
the training code, and none is imported by a command that does not train."""


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
    return {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def own_imports(path):
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith("kaggle_runner.")}
    return names & modules().keys()


def test_every_module_has_its_layer():
    placed = set().union(*LAYERS)
    assert set(modules()) <= placed, f"give these a layer: {sorted(set(modules()) - placed)}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_only_go_down(name):
    height = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    assert name in height, f"give {name} a layer"
    above = {other for other in own_imports(modules()[name]) if height[other] > height[name]}
    assert not above, f"{name} imports {sorted(above)} from above"


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


def test_nobody_but_the_command_line_imports_the_reports():
    reports = {name for name in modules() if name.startswith("report")} | {"analysis"}
    users = {name for name, path in modules().items() if own_imports(path) & reports}
    assert users <= {"cli", "cli_run", "cli_lab", *reports}


@pytest.mark.parametrize("arguments", [["--help"], ["detect", "--json"], ["show", "nowhere"]])
def test_light_commands_import_no_heavy_package(arguments):
    heavy = {"torch", "transformers", "optuna", "numpy", "wandb", "datasets", "plotly", "matplotlib", "rich"}
    script = ("import contextlib, sys\nfrom kaggle_runner.cli import main\n"
              "with contextlib.suppress(SystemExit):\n    main(sys.argv[1:])\n"
              "print('LOADED', ' '.join(sorted(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    loaded = set(done.stderr.split("LOADED")[1].split())
    assert not loaded & heavy


def test_the_modules_are_of_a_size_to_read():
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: count for name, count in lines.items() if count > 400}
