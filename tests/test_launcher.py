"""The launcher: one text that holds the package and runs anywhere; and what it does on the kernel."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from kaggle_runner.errors import KernelError, SecretError
from kaggle_runner.files import line_of, read_checked, write_checked
from kaggle_runner.kaggle import launcher
from kaggle_runner.kaggle.launcher import Launch, build_launcher, package_files
from kaggle_runner.kaggle.shrink import with_short_names, without_spaces, without_types, without_uncalled, without_words
from kaggle_runner.kernel.packages import NEEDS
from tests.launcher_reader import read_launcher
from tests.standins.nvidia_smi import NO_DRIVER, P100, T4_X2, answering, path_with

REPOSITORY = Path(__file__).parent.parent
COMMANDS = ("agent", "sweep", "train", "export", "try")
DETECT = Launch(arguments=("detect", "--json"))
WANDB_KEY = "0123456789abcdef0123456789abcdef01234567"


def run_script(script, directory, *, on_kaggle=False, **environ):
    """Run a launcher's text as Kaggle does, or plainly, in an empty directory without the repository on any path."""
    (directory / "kaggle" / "working").mkdir(parents=True, exist_ok=True)
    (directory / "script.py").write_text(script)
    marks = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_RUNNER_ROOT": str(directory)} if on_kaggle else {}
    return subprocess.run(
        [sys.executable, "script.py"], cwd=directory, capture_output=True, text=True, timeout=250,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "TMPDIR": str(directory), "PIP_NO_INDEX": "1",
             **marks, **environ})


@pytest.fixture(scope="module")
def detect_script():
    return build_launcher(DETECT, {})


def result_of(directory):
    return json.loads((directory / "kaggle" / "working" / "result.json").read_text())


def test_two_builds_are_the_same_and_hold_the_package():
    first, second = build_launcher(DETECT, {}), build_launcher(DETECT, {})
    assert first == second
    launch, package = read_launcher(first)
    assert launch == DETECT
    assert package == package_files("detect")


def test_the_package_is_made_once_and_again_where_a_kept_one_is_damaged_or_of_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "kept"))
    script = build_launcher(DETECT, {})
    (path,) = tmp_path.rglob("launcher-*")
    whole = path.read_text()
    kept = read_checked(path)
    files, other = kept["files"], kept["text"][:-2]
    write_checked(path, {**kept, "text": other})
    assert other in build_launcher(DETECT, {}).replace('"\n    "', ""), "what is whole and of these files is taken"
    of_others = line_of({**kept, "files": files[:-1]})
    for damaged in (whole.replace(kept["text"], other), of_others, whole[:-100] + "\x80", ""):
        path.write_text(damaged)
        assert build_launcher(DETECT, {}) == script
        assert path.read_text() == whole
    assert build_launcher(Launch(arguments=("try", "mine")), {}) != script, "each command has its own"
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "file"))
    assert build_launcher(DETECT, {}) == script, "where nothing can be kept"


def test_a_kept_package_is_made_anew_once_a_file_has_changed(tmp_path):
    shutil.copytree(launcher.__file__.partition("/kaggle/launcher.py")[0], tmp_path / "kaggle_runner",
                    ignore=shutil.ignore_patterns("demo_base", "__pycache__"))

    def kept(made):
        script = "from kaggle_runner.kaggle.kept import kept\nprint(kept('any', input))"
        return subprocess.run([sys.executable, "-c", script], input=made, capture_output=True, text=True, check=True,
                              cwd=tmp_path, env={"PATH": os.environ["PATH"]}).stdout.strip()

    assert (kept("first"), kept("second")) == ("first", "first")
    (tmp_path / "kaggle_runner" / "report" / "page.css").write_text("p {}\n")
    assert (kept("third"), kept("fourth")) == ("third", "third")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_small_for_each_command_of_a_kernel(command):
    sweep_file = "parameter: {value: 1}\n" * 100
    assert len(build_launcher(Launch(arguments=(command, "mine"), files={"mine": sweep_file}), {})) <= 250_000


def test_it_leaves_out_weights_and_what_a_kernel_does_not_use():
    names = package_files()
    assert "kaggle_runner/kernel/main.py" in names
    assert not [name for name in names if "demo_base" in name or "__pycache__" in name or "kaggle/watch" in name]
    files = [path for path in (REPOSITORY / "kaggle_runner").rglob("*")
             if path.is_file() and "__pycache__" not in path.parts]
    missing = {path.relative_to(REPOSITORY).as_posix() for path in files} - names.keys()
    unseen = [name for name in missing if not re.search(r"\.py$|demo_base|sweep/shipped", name)]
    assert not unseen, "reports need theirs"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_module_inside_needs_one_that_is_left_out(command):
    package = package_files(command)
    inside = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in package
              if name.endswith(".py")}
    for name, content in package.items():
        for node in ast.parse(content).body if name.endswith(".py") else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kaggle_runner":
                assert node.module in inside, f"{name} imports {node.module}"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    ours = (REPOSITORY / whole.replace(".", "/")).with_suffix(".py").exists()
                    assert whole in inside or not ours, f"{name} imports {whole}"


@pytest.mark.parametrize("command", ["export", "try"])
def test_a_command_about_a_finished_model_takes_its_room_instead_of_search_and_report(command, tmp_path):
    rooms = {name.split("/")[1] for name in package_files(command)}
    assert {"model", "training", "study"} <= rooms
    assert not rooms & {"wandb", "report", "lab", "kaggle"}
    ran = run_script(build_launcher(Launch(arguments=(command, "no-such-study")), {}), tmp_path)
    assert (ran.returncode, "no-such-study" in ran.stderr) == (1, True)


def test_docstrings_and_comments_are_left_out_and_lines_stay_where_they_are():
    source = 'Ä = 1; """\n\nAnd more."""\nimport os\n\n\nclass A:\n    """Ä."""; x = "#kept"  # Ä\n    """B."""\n'
    source += 'class C:\n    """D."""\n'
    stripped = 'Ä = 1; ""\n\n\nimport os\n\n\nclass A:\n    ""; x = "#kept"\n\nclass C:\n    ""\n'
    assert without_words(source.encode()).decode() == stripped
    for name, content in package_files().items():
        if name.endswith(".py"):
            compile(content, name, "exec")
            assert content.count(b"\n") == (REPOSITORY / name).read_bytes().count(b"\n")


def test_types_of_functions_are_left_out_and_those_of_classes_stay():
    source = """class A:
    x: int = 1

    def f(self, ä: dict[str,
                        int], *rest: int, b: str = "->", **more: "A") -> tuple[int,
                                                                               str]: return ä, b
"""
    stripped = """class A:
    x: int = 1

    def f(self, ä, *rest, b = "->", **more): return ä, b


"""
    assert without_types(source.encode()).decode() == stripped


def test_functions_that_nothing_names_are_left_out_with_what_only_they_call():
    files = {"a.py": b"def used():\n  return kept()\n\n\ndef kept():\n  pass\n\n\n@click\ndef decorated():\n  pass\n",
             "b.py": b"from a import used\nX = {'by_name': used}\n\n\ndef alone():\n  return only_there()\n\n\n"
                     b"def only_there():\n  pass\n\n\ndef by_name():\n  pass\n\n\ndef __getattr__(name):\n  pass\n",
             "page.js": b"alone only_there"}
    left = without_uncalled(files)
    assert left == {**files, "b.py": files["b.py"].replace(b"def alone():\n  return only_there()", b"\n")
                    .replace(b"def only_there():\n  pass", b"\n")}


def test_methods_that_nothing_names_are_left_out_where_no_class_of_others_may_call_them():
    own = (b"class Own:\n x: int\n\n @property\n def alone(self): pass\n\n def used(self): pass\n\n"
           b" @click\n def given(self): pass\n")
    files = {"a.py": own, "b.py": b"Own().used()\n\n\nclass Shown(Base):\n y: int\n\n def render(self): pass\n"}
    assert without_uncalled(files) == {**files, "a.py": own.replace(b" @property\n def alone(self): pass", b"\n")}


def test_spaces_that_divide_nothing_are_left_out_and_strings_stay_as_they_are():
    source = ('def f(x, *, y: int = 1):\n    if x:\n        return """a\n        b\n    """\n'
              '    return (f"""\n        {x\n        }\n    c""",\n'
              '            x if -y else "ä = ä"  , 1 if y else f"{x = }" "" )\n'
              '@g\nclass A (int) :\n\n    z = 1 .real, 0x1f or y, not x,  \\\n        x is not y, [1 , 2][ 0: -1 ]\n')
    spaceless = ('def f(x,*,y:int=1):\n if x:\n  return """a\n        b\n    """\n'
                 ' return(f"""\n        {x\n        }\n    c""",\nx if-y else "ä = ä",1 if y else f"{x = }" "")\n'
                 '@g\nclass A(int):\n\n z=1 .real,0x1f or y,not x,  \\\nx is not y,[1,2][0:-1]\n')
    assert without_spaces(source.encode()).decode() == spaceless
    for path in sorted((REPOSITORY / "kaggle_runner").rglob("*.py")):
        content = path.read_bytes()
        assert ast.dump(ast.parse(without_spaces(content))) == ast.dump(ast.parse(content)), path


def test_variables_get_short_names_and_everything_else_keeps_its_own():
    source = """import math
length = 3


class Box:
    width = [side for side in (1, 2)]

    def area(self, height, *, sum_of=sum):
        product, total = [side * height for side in self.width], 0
        for number, (total_so, b) in enumerate([(5, "ä"), (6, "ö")]):
            total += number + total_so; text = "ä" + b
        try:
            largest = max(product); missing = {}["missing"]
        except KeyError as error:
            name = str(error)
        shown = [length for length in product]; answer = 42
        min = 7
        def inner(given, told=text):
            nonlocal answer
            answer = given + total
            import os.path as paths
            return answer, told, paths.sep, (lambda extra: extra + largest)(given)
        match {"kind": 1, "more": 2}:
            case {"kind": found, **others}: matched = found, others
        class Local:
            value = matched
        return (f"{name} {min} {total=}", dict(text=text, shown=shown), inner(2), Local.value,
                (walrus := math.floor(2.5)) + walrus, sum_of(product))
"""
    short = with_short_names(source.encode()).decode()
    for text in ("    width = [side for side in (1, 2)]", "a, total = [side * height for side in self.width], 0",
                 'f = "ä" + b', "g = max(a)", "name = str(error)", "i = [length for length in a]",
                 "dict(text=f, shown=i)", "def inner(given, told=f):", "(lambda extra: extra + g)(given)",
                 "(j := math.floor(2.5)) + j"):
        assert text in short, short
    results = []
    for text in (source, short):
        names: dict = {}
        exec(text, names)
        results.append(names["Box"]().area(3))
    assert results[0] == results[1]
    reading = b"def f(there):\n  value = there\n  return locals()\n"
    assert with_short_names(reading) == reading, "somebody asks for its names"


def test_private_functions_get_short_names_where_nothing_else_has_theirs():
    source = """_a = 1
def _doubled(number):
    return _with_one(2 * number) - 1
def _with_one(number): return number + _a
def _told(number): return number
def _named(number): return number
def _hidden(number, _hidden=5): return _hidden
class Box:
    _doubled_so = 3
    def _kept(self): return [_doubled(one) for one in (1, self._doubled_so)]
def shown():
    return Box()._kept(), f"{_told(4)}", globals()["_named"](6), _hidden(7), list(map(_with_one, (8,)))
"""
    short = with_short_names(source.encode()).decode()
    for text in ("def _b(number):\n    return _c(2 * number) - 1", "def _c(number)", "def _told(", "def _named(",
                 "def _hidden(", "_doubled_so = 3", "[_b(a) for a in", "map(_c, (8,))"):
        assert text in short, short
    results = []
    for text in (source, short):
        names: dict = {}
        exec(text, names)
        results.append(names["shown"]())
    assert results[0] == results[1] == ([2, 6], "4", 6, 5, [9])


def test_it_runs_locally_from_one_file(tmp_path, detect_script):
    ran = run_script(detect_script, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["host"] == "local"
    assert "kaggle_runner" in ran.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("kaggle_runner-")] == []


def test_a_failure_keeps_its_status_outside_kaggle_and_becomes_a_verdict_on_kaggle(tmp_path):
    script = build_launcher(Launch(arguments=("sweep", "mine.yaml", "--cpu"), files={"mine.yaml": "nonsense: 1\n"},
                                   settings={"HF_HUB_OFFLINE": "1"}), {})
    outside = run_script(script, tmp_path)
    assert (outside.returncode, "mine.yaml: 3 problems\n" in outside.stderr) == (1, True)
    inside = run_script(script, tmp_path, on_kaggle=True)
    assert inside.returncode == 0
    result = result_of(tmp_path)
    assert (result["verdict"], result["exit_status"]) == ("failed", 1)
    assert "mine.yaml: 3 problems\n" in result["reason"]
    assert result["environment"]["host"] == "kaggle"
    assert result["versions"]["python"].startswith("3.")


def test_settings_and_files_reach_the_command_and_its_children(tmp_path):
    script = build_launcher(Launch(arguments=("sweep", "mine.yaml", "--cpu"), files={"mine.yaml": "nonsense: 1\n"},
                                   settings={"KAGGLE_RUNNER_HOST": "colab", "HF_HUB_OFFLINE": "1"}), {})
    ran = run_script(script, tmp_path, on_kaggle=True, KAGGLE_RUNNER_HOST="kaggle")
    assert ran.returncode == 0
    assert "mine.yaml" in result_of(tmp_path)["reason"]
    assert result_of(tmp_path)["environment"]["host"] == "kaggle"


SWEEP = Launch(arguments=("sweep", "mine.yaml"), files={"mine.yaml": "nonsense: 1\n"})


@pytest.mark.parametrize(("machine", "gpus", "reason"), [
    (None, [], r"no GPU to train on: .*; push with --machine NvidiaTeslaT4, .*phone is verified, at https://www\.kaggle\.com/"
               r"settings; or use the CPU: --cpu"),
    (NO_DRIVER, [], r"no GPU to train on: nvidia-smi ended with status 9 and said: NVIDIA-SMI has failed"),
    (answering(P100), ["Tesla P100-PCIE-16GB, 15.53 GiB usable, compute capability 6.0: refused, torch has no kernels "
                       "for it"],
     r"no GPU to train on: Tesla P100-PCIE-16GB has compute capability 6\.0 and torch has no kernels.*; choose a T4"),
])
def test_a_session_without_a_gpu_for_torch_ends_before_it_installs_anything(tmp_path, machine, gpus, reason):
    path = path_with(tmp_path / "bin", machine) if machine else "/usr/bin:/bin"
    ran = run_script(build_launcher(SWEEP, {}), tmp_path, on_kaggle=True, PATH=path)
    assert ran.returncode == 0, "so that Kaggle keeps the verdict"
    result = result_of(tmp_path)
    assert (result["verdict"], result["exit_status"]) == ("no gpu", 21)
    assert re.match(reason, result["reason"]), result["reason"]
    assert (result["gpus"], result["gpu_quota_hours"] > 0) == (gpus, bool(gpus)), "Kaggle charges for a useless GPU too"
    assert list(result["seconds_by_phase"]) == ["check"]


def test_a_session_without_the_internet_ends_before_it_installs_anything(tmp_path):
    script = build_launcher(SWEEP, {})
    t4 = path_with(tmp_path / "bin", answering(T4_X2))
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "no_proxy": "127.0.0.1", "https_proxy": "http://127.0.0.1:9"}
    ran = run_script(script, tmp_path, on_kaggle=True, PATH=t4, **offline)
    result = result_of(tmp_path)
    assert (ran.returncode, result["verdict"], result["exit_status"]) == (0, "no internet", 22)
    assert re.match(r'internet is off in this session: no answer from http://127\.0\.0\.1:9 .*the switch "Internet"',
                    result["reason"])
    assert list(result["seconds_by_phase"]) == ["check"]
    run_script(script, tmp_path, on_kaggle=True, PATH=t4, KAGGLE_RUNNER_INTERNET="off", **offline)
    assert "mine.yaml: 3 problems" in result_of(tmp_path)["reason"], "the command ran, and has its own words"


def test_what_lies_beside_the_script_or_in_the_working_folder_is_not_imported(tmp_path, detect_script):
    for folder in (tmp_path, tmp_path / "kaggle" / "working"):
        (folder / "kaggle_runner").mkdir(parents=True)
        (folder / "kaggle_runner" / "__init__.py").write_text("")
        for name in ("kaggle_runner/__main__.py", "random.py", "click.py"):
            (folder / name).write_text(f"raise SystemExit('{name} of the user')\n")
    ran = run_script(detect_script, tmp_path, on_kaggle=True)
    assert (result_of(tmp_path)["reason"], result_of(tmp_path)["verdict"]) == ("", "done"), ran.stderr
    assert json.loads(ran.stdout)["host"] == "kaggle"


@pytest.mark.parametrize("command", ["export", "try"])
def test_a_kernel_without_the_study_that_it_is_about_says_what_to_mount(tmp_path, command):
    launch = Launch(arguments=(command, "studies/mine", "--cpu"), settings={"HF_HUB_OFFLINE": "1"})
    run_script(build_launcher(launch, {}), tmp_path, on_kaggle=True)
    result = result_of(tmp_path)
    assert (result["exit_status"], result["reason"]) == (
        1, f"no study mine is mounted under {tmp_path}/kaggle/input: name the kernel that trained it, such as --kernel "
           f"me/my-training, and push again")


@pytest.mark.parametrize("place", ["working", "working/result.json"])
def test_a_verdict_that_cannot_be_written_is_said_in_one_line(tmp_path, place):
    taken = tmp_path / "kaggle" / place
    (tmp_path / "kaggle").mkdir()
    if place == "working":
        taken.write_text("no folder")
    else:
        taken.mkdir(parents=True)
    (tmp_path / "there").mkdir()
    ran = run_script(build_launcher(SWEEP, {}), tmp_path / "there", KAGGLE_KERNEL_RUN_TYPE="Batch",
                     KAGGLE_RUNNER_ROOT=str(tmp_path), PATH="/usr/bin:/bin")
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
    assert re.search(r"error: cannot write .*/working/result\.json: (File exists|it is no file); the session has no "
                     r"verdict but the next line\n(no gpu|failed): .*[^)]$", ran.stderr), ran.stderr


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
"""Before the package is unpacked it would be too small; afterwards no file grows beyond it, as on a full disk."""


def test_a_full_disk_leaves_the_result_of_before_as_it_was_and_says_so(tmp_path):
    script = build_launcher(SWEEP, {}).replace("        from kaggle_runner.kernel.main", f"        {FULL}"
                                               "        import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                                               "        from kaggle_runner.kernel.main")
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    (tmp_path / "kaggle" / "working" / "result.json").write_text("of before")
    ran = run_script(script, tmp_path, on_kaggle=True, PATH="/usr/bin:/bin")
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
    assert [path.read_text() for path in (tmp_path / "kaggle" / "working").iterdir()] == ["of before"]
    assert re.search(r"result\.json: File too large; the session has no verdict but the next line, and the one there "
                     r"is of an earlier start\nno gpu: .*[^)]$", ran.stderr), ran.stderr


@pytest.mark.parametrize(("limit", "what"), [(0, "No usable temporary directory found in"), (100, "File too large")])
def test_a_disk_without_room_for_the_package_is_a_verdict_in_one_line(tmp_path, detect_script, limit, what):
    script = FULL.replace("100", str(limit)) + detect_script
    reason = rf"this session cannot begin: \[Errno \d+\] {what}.*; mend that, and start it again"
    inside = run_script(script, tmp_path, on_kaggle=True)
    assert inside.returncode == 0, "so that Kaggle keeps what there is"
    assert re.fullmatch(r"error: cannot write .*/result\.json: File too large; the session has no verdict but the next "
                        rf"line\nfailed: {reason}\n", inside.stderr), inside.stderr
    assert list((tmp_path / "kaggle" / "working").iterdir()) == [], "nothing is half written"
    outside = run_script(script, tmp_path)
    assert (outside.returncode, bool(re.fullmatch(rf"error: {reason}\n", outside.stderr))) == (1, True), outside.stderr


def test_a_session_whose_output_nobody_takes_any_more_is_not_said_to_have_never_begun(tmp_path, detect_script):
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    (tmp_path / "script.py").write_text(detect_script)
    read, write = os.pipe()
    os.close(read)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, stderr=write, stdout=subprocess.DEVNULL, timeout=250,
                   env={"PATH": "/usr/bin:/bin", "KAGGLE_KERNEL_RUN_TYPE": "Batch",
                        "KAGGLE_RUNNER_ROOT": str(tmp_path)})
    os.close(write)
    assert result_of(tmp_path)["reason"] == \
        "this session cannot go on: [Errno 32] Broken pipe; mend that, and start it again"


def test_a_second_start_beside_a_running_one_leaves_its_result_alone(tmp_path, detect_script):
    import fcntl

    working = tmp_path / "kaggle" / "working"
    working.mkdir(parents=True)
    held = os.open(working, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = run_script(detect_script, tmp_path, on_kaggle=True)
    finally:
        os.close(held)
    assert (ran.returncode, list(working.iterdir())) == (0, [])
    assert re.search(r"error: a launcher that is still running has .*/working, and its result\.json is left alone",
                     ran.stderr)
    run_script(detect_script, tmp_path, on_kaggle=True)
    assert result_of(tmp_path)["verdict"] == "done", "and after its end the next one works"


@pytest.mark.parametrize(("visible", "texts"), [
    ("", ["Tesla T4, 14.56 GiB"] * 2), ("7", ["Tesla T4, 14.56 GiB"] * 2), ("NoDevFiles", ["Tesla T4, 14.56 GiB"] * 2),
    ("MIG-5c89", ["Tesla T4, 14.56 GiB"] * 2),
])
def test_gpus_that_a_variable_hides_are_named_and_counted_and_no_phone_is_asked_for(tmp_path, visible, texts):
    t4 = path_with(tmp_path / "bin", answering(T4_X2))
    ran = run_script(build_launcher(SWEEP, {}), tmp_path, on_kaggle=True, PATH=t4, CUDA_VISIBLE_DEVICES=visible)
    result = result_of(tmp_path)
    assert (result["exit_status"], result["verdict"]) == (21, "no gpu"), ran.stderr
    assert f"CUDA_VISIBLE_DEVICES={visible}; CUDA_VISIBLE_DEVICES hides all 2 GPUs of this machine: unset it" in \
        result["reason"]
    assert "phone" not in ran.stderr
    assert [text.split(" usable")[0] for text in result["gpus"]] == texts
    assert all(text.endswith(", hidden by CUDA_VISIBLE_DEVICES") for text in result["gpus"])
    assert result["gpu_quota_hours"] > 0, "Kaggle charges for what a variable hides too"


def test_who_asked_for_a_cpu_hears_nothing_of_gpus(tmp_path):
    script = build_launcher(Launch(arguments=("sweep", "mine.yaml", "--cpu"), files=SWEEP.files,
                                   settings={"HF_HUB_OFFLINE": "1"}), {})
    for number, machine in enumerate((None, NO_DRIVER, answering(P100))):
        path = path_with(tmp_path / f"bin{number}", machine) if machine else "/usr/bin:/bin"
        assert "warning: " not in run_script(script, tmp_path, on_kaggle=True, PATH=path).stderr


def test_a_python_with_nothing_but_itself_gets_a_verdict(tmp_path, detect_script):
    """Without any package, not even pip or what pip brings."""
    venv.create(tmp_path / "python", with_pip=False, symlinks=True)
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    (tmp_path / "script.py").write_text(detect_script)
    ran = subprocess.run([tmp_path / "python" / "bin" / "python", "script.py"], cwd=tmp_path, capture_output=True,
                         text=True, timeout=250, env={"PATH": "/usr/bin:/bin", "KAGGLE_KERNEL_RUN_TYPE": "Batch",
                                                     "KAGGLE_RUNNER_ROOT": str(tmp_path)})
    assert "Traceback" not in ran.stderr
    assert "warning: no command line: click is not installed (" in ran.stderr
    result = result_of(tmp_path)
    assert result["reason"] == ("click is not installed; run: pip install 'kaggle_runner[local]', or push with --image "
                                "of another image")
    assert any("No module named pip" in text for text in result["lost"]), result["lost"]


def test_one_damaged_byte_is_said(tmp_path, detect_script):
    position = detect_script.index("    \"", detect_script.index("PACKAGE = (")) + 500
    damaged = detect_script[:position] + ("A" if detect_script[position] != "A" else "B") + detect_script[position + 1:]
    outside = run_script(damaged, tmp_path)
    assert outside.returncode == 1
    assert re.search(r"error: this launcher is damaged: its package has sha256 .* make it again: python -m "
                     r"kaggle_runner kernel prepare", outside.stderr)
    assert run_script(damaged, tmp_path, on_kaggle=True).returncode == 0
    assert result_of(tmp_path)["reason"].startswith("this launcher is damaged")


def test_a_package_that_cannot_be_imported_is_a_verdict_on_kaggle(tmp_path, detect_script):
    script = detect_script.replace("from kaggle_runner.kernel.main import", "import kaggle_runner.gone #")
    assert run_script(script, tmp_path, on_kaggle=True).returncode == 0
    assert result_of(tmp_path)["reason"] == "ModuleNotFoundError: No module named 'kaggle_runner.gone'"


def test_a_command_that_is_killed_is_a_verdict_on_kaggle(tmp_path, detect_script):
    script = detect_script.replace(
        "from kaggle_runner.kernel.main import run",
        "from kaggle_runner.kernel.main import run; "
        "open(directory + '/kaggle_runner/cli/main.py', 'w').write('import os; os.kill(os.getpid(), 9)')")
    assert run_script(script, tmp_path, on_kaggle=True).returncode == 0
    assert result_of(tmp_path)["exit_status"] == 137
    assert result_of(tmp_path)["reason"] == \
        "the command was ended by SIGKILL, as a machine does when its memory is full"


def test_it_runs_pasted_into_a_notebook_cell_even_where_lines_begin_like_magics(tmp_path, detect_script):
    pytest.importorskip("IPython")
    # Chunks that begin with what IPython would change; in a triple-quoted block it strips the `>>>`.
    lines = detect_script.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith('    "')) + 1
    package = "".join(line.strip()[1:-1] for line in lines[start - 1:] if line.startswith('    "')
                      and line.endswith('"') and line.count('"') == 2)
    cuts = sorted(package.index(start_of) for start_of in (">", "%", "!", "?"))
    pieces = [package[a:b] for a, b in zip([0, *cuts], [*cuts, len(package)], strict=True)]
    end = lines.index(")", start)
    cell = "\n".join([*lines[:start - 1], *(f'    "{piece}"' for piece in pieces), *lines[end:]])
    (tmp_path / "cell.py").write_text(cell)
    (tmp_path / "paste.py").write_text(
        "from pathlib import Path\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "done = InteractiveShell.instance().run_cell(Path('cell.py').read_text())\n"
        "done.raise_error()\n"
        "import kaggle_runner\n"
        "print(kaggle_runner.__file__)\n")
    ran = subprocess.run([sys.executable, "paste.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250,
                         env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)})
    assert ran.returncode == 0, ran.stderr
    assert '"host": "local"' in ran.stdout
    assert str(tmp_path / "kaggle_runner-") in ran.stdout


def test_colab_run_may_put_a_line_above_it(tmp_path, detect_script):
    assert "__future__" not in detect_script[detect_script.index("def kaggle_runner_launch"):]
    assert run_script(f"import sys; sys.argv = ['script.py', '--env', 'A=B']; del __file__\n{detect_script}",
                      tmp_path).returncode == 0


def test_it_reaches_the_first_line_of_detect_quickly(tmp_path):
    """At most 1.5 s of CPU, both processes together; the children of this test's own are measured before and after."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_script(build_launcher(Launch(arguments=("detect",)), {}), tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.5


@pytest.mark.parametrize(("launch", "message"), [
    ({"arguments": ("agent", WANDB_KEY)}, "argument 2 looks like a W&B key"),
    ({"settings": {"A": "hf_abcdefghijklmnopqrst"}}, "setting A looks like a Hugging Face token"),
    ({"settings": {"WANDB_API_KEY": "short"}}, "setting WANDB_API_KEY is named like a secret"),
    ({"files": {"a.yaml": "key: KGAT_0123456789abcdef"}}, "file a.yaml looks like a Kaggle key"),
])
def test_it_refuses_to_hold_a_key(launch, message):
    with pytest.raises(SecretError, match=message + ".*secret put"):
        Launch(**{"arguments": ("agent", "x"), **launch})


def test_it_refuses_to_hold_a_credential_of_this_environment():
    launch = Launch(arguments=("agent", "correct-horse-battery"))
    with pytest.raises(SecretError, match="would hold the value of MY_PASSWORD; leave it out"):
        build_launcher(launch, {"MY_PASSWORD": "correct-horse-battery"})
    assert "TOKENIZERS" in build_launcher(Launch(arguments=("a",), settings={"TOKENIZERS_PARALLELISM": "false"}), {})


def test_it_refuses_to_be_larger_than_kaggle_takes():
    noise = "".join(chr(33 + (number * 7919) % 90) for number in range(launcher.LIMIT_BYTES))
    with pytest.raises(KernelError, match=r"has \d+ KB and Kaggle takes 900.*mount them as a dataset"):
        build_launcher(Launch(arguments=("train", "a.yaml"), files={"a.yaml": noise}), {})


@pytest.mark.parametrize("host", ["kaggle", "colab"])
def test_the_pinned_versions_are_those_of_the_environment_files(host):
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (REPOSITORY / "environments" / f"{host}.txt").read_text(), re.M))
    assert {need.name: need.version for need in NEEDS if need.version} == pins
