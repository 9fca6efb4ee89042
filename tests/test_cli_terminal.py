"""What a person sees at a terminal: tables that fit, the time left, Ctrl-C, help, and words for every mistake."""

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest

from kaggle_runner.cli.help import EXAMPLES, SECTIONS
from kaggle_runner.cli.lab import as_text
from kaggle_runner.cli.look import next_lines
from kaggle_runner.cli.main import cli, main
from kaggle_runner.cli.progress import Lines, describe_event
from kaggle_runner.cli.shared import print_study
from kaggle_runner.cli.table import SHOWN, trial_table
from kaggle_runner.cli.time_left import TimeLeft, in_words
from kaggle_runner.cli.words import columns_of, fitted, flowing
from kaggle_runner.events import LengthKnown, Logged, SweepStarted, TrialEnded, TrialStarted
from kaggle_runner.files import FACTS_VARIABLE
from kaggle_runner.kaggle.push import push_again
from kaggle_runner.report.write import write_page
from kaggle_runner.study.journal import Study, read_study
from kaggle_runner.study.trial import Status
from tests.held_trials import held
from tests.made_studies import Made, write_confirmed, write_study
from tests.standins.nvidia_smi import path_with

ROOT = Path(__file__).parent.parent
PARAMETERS = {name: {"values": [0, 1]} for name in (
    "learning_rate", "gradient_accumulation_steps", "lora_dropout", "weight_decay", "lora_r", "lora_alpha")}


def demo(folder, count=6, **more):
    trials = [Made(value=4 - number / 7, steps=10, seconds=10 + number, params={
        "learning_rate": 1e-3 * (number + 1), "gradient_accumulation_steps": 4 + number % 2 * 4, "lora_dropout": 0.05,
        "weight_decay": number / 100, "lora_r": 8, "lora_alpha": 16 + number}) for number in range(count)]
    return read_study(write_study(folder, [*trials, *more.pop("others", ())], parameters=PARAMETERS, **more))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("made") / "study", others=[
        Made(value=None, status=Status.FAILED, reason="the loss is nan at step 3, and a longer sentence says why",
             params={"learning_rate": 0.5, "lora_r": 8}),
        Made(value=3.9, status=Status.PRUNED, reason="worse than the others at step 5", params={"lora_r": 8})])


def test_sigterm_is_a_word_and_130_in_every_command(tmp_path):
    """It comes while the command looks for GPUs: from the program that it asks."""
    found = path_with(tmp_path / "bin", "kill -TERM $PPID; sleep 5\n")
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", "detect"], capture_output=True, text=True,
                          timeout=250, env={**os.environ, "PATH": found})
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == ("interrupted: nothing that was recorded is lost; go on with: python -m "
                                   "kaggle_runner detect")


def test_an_interrupt_on_a_kernel_names_what_begins_it_again(tmp_path):
    """There nobody types a command, and the line becomes the reason in result.json."""
    found = path_with(tmp_path / "bin", "kill -TERM $PPID; sleep 5\n")
    done = subprocess.run([sys.executable, "-m", "kaggle_runner", "detect"], capture_output=True, text=True,
                          timeout=250, env={**os.environ, "PATH": found, FACTS_VARIABLE: str(tmp_path / "facts.json")})
    assert done.returncode == 130
    assert done.stderr.strip() == ("interrupted: nothing that was recorded is lost; go on with: the launcher that "
                                   "began it, run again; on Kaggle the push that made it, with this kernel as --kernel")


def test_a_sweep_ends_with_what_its_page_says_of_first_place(tmp_path, capsys):
    print_study(demo(tmp_path / "study"), "all trials are done")
    told = capsys.readouterr().out
    assert "\nfirst    Which of 6 complete configurations comes first is not known yet, " in told
    assert told.index("\nbest ") < told.index("\nfirst ") < told.index("\npicture ")


@pytest.mark.parametrize("width", [None, 30])
def test_of_a_confirmed_study_the_mean_is_shown_that_its_trials_are_ranked_by(tmp_path, width):
    found = trial_table(read_study(write_confirmed(tmp_path / "s")), width=width)
    told = found.split()
    assert told.index("*") == told.index("2.5250") + 1
    assert told.count("*") == 1
    assert "mean" in told
    assert "mean" not in trial_table(demo(tmp_path / "plain"), width=width).split()


def words_of(text):
    return set(text.split())


@pytest.mark.parametrize("width", [200, 110, 80, 60, 40])
def test_a_table_fits_and_breaks_no_word(study, width):
    whole, found = trial_table(study, width=None), trial_table(study, width=width)
    assert max(map(len, found.splitlines())) <= width
    cells = re.compile(r"[\d.]+|\w+/\w+|complete|pruned|failed|nan")
    assert set(cells.findall(found)) >= set(cells.findall(whole)), "no value is lost or cut"
    shortened = dict(re.findall(r"(\w+) =\s+(\w+)", found))
    assert {*words_of(found), *shortened.values()} >= PARAMETERS.keys(), "each name is there, or is explained"


def test_the_best_trial_is_first_and_what_is_the_same_in_all_stands_above(study, tmp_path):
    lines = trial_table(study, width=None).splitlines()
    assert lines[0] == "in all   peak GiB 0.49  lora_r 8"
    assert [line.split()[0] for line in lines[2:10]] == [
        "0005", "0004", "0003", "0002", "0001", "0000", "0007", "0006"]
    assert lines[2].split()[1:3] == ["3.2857", "*"]
    assert lines[-2:] == ["pruned   0007: worse than the others at step 5",
                          "failed   0006: the loss is nan at step 3, and a longer sentence says why"]
    up = trial_table(demo(tmp_path / "up", goal="maximize"), width=None).splitlines()
    assert up[2].split()[:3] == ["0000", "4.0000", "*"]


def test_a_long_study_shows_its_best_and_says_how_to_see_all(tmp_path):
    long = demo(tmp_path / "my study", count=SHOWN + 3)
    shown = trial_table(long, width=80).splitlines()
    assert shown[-1].endswith(f"more trials; all of them: python -m kaggle_runner show '{long.directory}' --all")
    assert "0022" in shown[2]
    assert not any(line.startswith("0000") for line in shown)
    assert any(line.startswith("0000") for line in trial_table(long, width=80, everything=True).splitlines())
    assert trial_table(read_study(write_study(tmp_path / "none", [])), width=80) == "no trial has begun"


def test_a_narrow_terminal_gets_one_block_a_trial(study):
    lines = trial_table(study, width=40).splitlines()
    assert "trial 0005" in lines
    assert re.match(r"  eval/loss 3\.2857 \*  status complete", lines[lines.index("trial 0005") + 1])


def test_lines_break_between_words_and_commands_stay_whole():
    assert fitted("best", "trial 0001, eval/loss 3.1", 200) == "best     trial 0001, eval/loss 3.1"
    assert fitted("", "learning_rate 0.1  lora_r 8  lora_alpha 16", 34).splitlines() == [
        "         learning_rate 0.1", "         lora_r 8  lora_alpha 16"]
    said = flowing("error: it is not there; make it with: python -m kaggle_runner dry-run mine.yaml --count 3", 50)
    assert "python -m kaggle_runner dry-run mine.yaml --count 3" in said.splitlines()[-1]
    assert len(said.splitlines()) == 2
    assert flowing("a" * 90, 50) == "a" * 90
    said = fitted("rows", "rows of the hub; see them with python -m kaggle_runner preview a.yaml", 60).splitlines()
    assert said[1].strip() == "python -m kaggle_runner preview a.yaml"


SUMMARY = """# lr \\* 2

**Varied:** `lora_r` over 8, 16; all else as in `study.yaml`, which says it at length, and \\`more\\` of it.

## What was seen

| value | seeds | mean eval/loss | why |
| --- | --- | --- | --- |
| 8 (default) | 3 | 3.37924 |  |
| a\\|b | 3 | 2.82741 | a long reason of many words, so that the whole table is wider than the terminal is |

- trial 0001 failed: the loss is nan at step 3, and there is more to be said of it than fits into a line
"""


@pytest.mark.parametrize("width", [None, 110, 80, 40])
def test_a_summary_is_read_on_a_terminal_without_marks(width):
    said = as_text(SUMMARY, width)
    assert max(map(len, said.splitlines())) <= (width or 1000)
    assert not re.search(r"[|*]{2}|\| |`lora|^#", said, re.MULTILINE)
    words = re.findall(r"[\w./()-]+", re.sub(r"[|*#`\\]|---", " ", SUMMARY))
    assert set(words) <= set(re.findall(r"[\w./()-]+", said.replace("|", " "))), "the same words"
    assert "a|b" in said
    assert "`more`" in said


def test_a_dumb_terminal_gets_whole_words(tmp_path):
    program = ("from kaggle_runner.cli.progress import display\nfrom kaggle_runner.events import Note\n"
               "with display() as notify: notify(Note(text='word ' * 40))")
    terminal = Terminal(["-c", program], tmp_path, TERM="dumb", COLUMNS="63")
    assert terminal.end() == 0
    lines = terminal.screen.split("\r\n")
    assert max(map(len, lines)) <= 63
    assert {word for line in lines for word in line.split()} == {"word"}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_time_left_follows_from_finished_trials_and_the_running_ones_steps():
    clock = Clock()
    left = TimeLeft(clock)
    assert (left.of_sweep(), left.line()) == (None, None)
    left.take(SweepStarted(total=5, finished=1, directory="s", seconds=(100.0,)))
    assert left.of_sweep() == 400
    left.take(TrialStarted(trial="0001", origin="gp", settings="", max_steps=10))
    clock.now = 40
    assert (left.of_trial("0001"), left.of_sweep()) == (60, 360)
    left.take(Logged(trial="0001", step=1, values={}))
    clock.now = 50
    left.take(Logged(trial="0001", step=2, values={}))
    assert left.of_trial("0001") == 80, "by its own steps as soon as there are two"
    assert left.line() == "sweep: 1 of 5 trials done, about 6 min left; trial 0001 at step 2/10"
    left.take(TrialEnded(trial="0001", status="complete", metric=1.0, seconds=200.0))
    assert left.of_sweep() == 450
    left.take(TrialEnded(trial="0002", status="failed", metric=None, seconds=1.0))
    assert left.of_sweep() == 300, "a failure's second says nothing of the next trial"


def test_the_first_line_of_a_sweep_says_what_is_kept_for_confirming_its_winner():
    said = describe_event(SweepStarted(total=16, finished=2, directory="s", confirming=4), None)
    assert said == "sweep of 16 trials in s, 2 of them done already, then 4 trainings to confirm its winner"
    assert describe_event(SweepStarted(total=16, finished=0, directory="s"), None) == "sweep of 16 trials in s"


def test_the_end_of_a_trial_has_its_metric_as_the_table_has_it():
    started = TrialStarted(trial="0003", origin="model", settings="", max_steps=5, metric="eval/exact_match")
    ended = TrialEnded(trial="0003", status="complete", reason="", metric=2 / 48, seconds=3.9)
    assert describe_event(ended, started) == "trial 0003 complete, 0.04167, 3.9 s"
    assert describe_event(replace(ended, metric=0.25), started) == "trial 0003 complete, 0.25, 3.9 s"


def test_two_workers_take_half_the_time_and_a_first_trial_is_judged_by_its_steps():
    clock = Clock()
    left = TimeLeft(clock)
    left.take(SweepStarted(total=4, finished=0, directory="s", workers=2))
    assert left.line() == "sweep: 0 of 4 trials done, time left not known yet"
    for trial in ("a", "b"):
        left.take(TrialStarted(trial=trial, origin="gp", settings="", max_steps=10))
        left.take(Logged(trial=trial, step=0, values={}))
    clock.now = 20
    for trial in ("a", "b"):
        left.take(Logged(trial=trial, step=2, values={}))
    assert left.of_sweep() == (2 * 80 + 2 * 100) / 2


def test_an_agent_without_an_end_tells_its_pace():
    left = TimeLeft(Clock())
    left.take(TrialStarted(trial="x1", origin="wandb", settings="", max_steps=4))
    left.take(TrialEnded(trial="x1", status="complete", metric=1.0, seconds=95.0))
    assert left.line() == "agent: 1 trial done, 2 min each"
    assert [in_words(seconds) for seconds in (5, 89, 90, 7200, 12000)] == ["5 s", "89 s", "2 min", "2 h", "3 h 20 min"]


def test_the_steps_of_epochs_are_shown_once_the_rows_are_counted(capfd):
    with Lines() as notify:
        notify(TrialStarted(trial="0000", origin="default", settings="1 epoch", max_steps=0))
        notify(Logged(trial="0000", step=0, values={"eval/loss": 4.0}))
        notify(LengthKnown(trial="0000", max_steps=11))
        notify(Logged(trial="0000", step=11, values={"eval/loss": 3.0}))
        assert notify._left.line() == "agent: 0 trials done; trial 0000 at step 11/11"
    assert [line.split("  ")[1] for line in capfd.readouterr().err.splitlines()[1:]] == ["step 0/?", "step 11/11"]


def test_where_no_bar_is_drawn_a_line_tells_the_time_left(capfd):
    with Lines(every_s=0.01) as notify:
        notify(SweepStarted(total=3, finished=1, directory="s", seconds=(60.0,)))
        until = time.monotonic() + 20
        said = ""
        while "left" not in said and time.monotonic() < until:
            said += capfd.readouterr().err
    assert "sweep: 1 of 3 trials done, about 2 min left\n" in said


class Terminal:
    """A program on a terminal of its own, as a person has it."""

    def __init__(self, arguments, directory, **environ):
        self.screen = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execve(sys.executable, [sys.executable, *map(str, arguments)], {
                **os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24", "TERM": "xterm", **environ})

    def wait_for(self, text, seconds=60):
        until = time.monotonic() + seconds
        while text not in self.screen and time.monotonic() < until and self._read():
            pass
        assert text in self.screen, self.screen

    def press_ctrl_c(self):
        os.write(self._terminal, b"\x03")

    def end(self):
        while self._read():
            pass
        return self.hang_up()

    def hang_up(self):
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self):
        if select.select([self._terminal], [], [], 30)[0]:
            try:
                self.screen += os.read(self._terminal, 65536).decode(errors="replace")
            except OSError:  # the program is gone
                return False
        return True


SESSION = """
import time
from dataclasses import replace
from kaggle_runner.cli.progress import display
from kaggle_runner.events import Checkpointed, Logged, TrialStarted
from kaggle_runner.run.signals import end_on_signals
with display("python -m kaggle_runner dry-run mine.yaml") as notify, end_on_signals(notify) as ending:
    notify(TrialStarted(trial="0003", origin="gp", settings="lora_r 8", max_steps=10))
    notify(Checkpointed(trial="0003", step=4))
    notify(Logged(trial="0003", step=7, values={"train/loss": 3.5}))
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
"""


def test_a_terminal_that_is_closed_ends_a_session_and_breaks_no_line_that_is_printed(tmp_path):
    session = SESSION.replace("while True", "while not ending.is_set()") + """
    notify(Logged(trial="0003", step=8, values={"train/loss": 3.5}))
    print("nobody reads this", flush=True)
raise SystemExit(7)
"""
    terminal = Terminal(["-c", session], tmp_path)
    terminal.wait_for("ready")
    assert terminal.hang_up() == 7


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_ctrl_c_says_what_happens_and_the_second_one_what_is_lost(tmp_path, kind):
    terminal = Terminal(["-c", SESSION], tmp_path, TERM=kind)
    terminal.wait_for("ready")
    terminal.press_ctrl_c()
    terminal.wait_for("last checkpoint.")
    assert "Ctrl-C: the running trial writes a checkpoint at its next step" in " ".join(terminal.screen.split())
    terminal.press_ctrl_c()
    assert terminal.end() == 130
    said = " ".join(terminal.screen.split())
    assert ("Ctrl-C again: ended at once; trial 0003 goes on from step 4 of 7, and finished trials are kept. "
            "Go on with: python -m kaggle_runner dry-run mine.yaml") in said
    assert ("\x1b" in terminal.screen) == (kind == "xterm"), "a terminal that can draw nothing gets plain lines"
    if kind == "xterm":
        assert terminal.screen.rindex("\x1b[?25h") > terminal.screen.rindex("\x1b[?25l"), "the cursor is there again"


def test_no_color_is_obeyed(tmp_path):
    terminal = Terminal(["-c", SESSION], tmp_path, NO_COLOR="1")
    terminal.wait_for("ready")
    terminal.press_ctrl_c()
    terminal.wait_for("last checkpoint.")  # two that come at once are one signal
    terminal.press_ctrl_c()
    assert terminal.end() == 130
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", terminal.screen)


SAID = {
    (): "Three commands to begin with: python -m kaggle_runner dry-run A sweep on this CPU, without account.",
    ("--help",): "The same command again continues a study, also after a crash or Ctrl-C.",
    ("show", "s"): "best trials 0000, 0001, eval/loss 2.0500 +- 0.05 standard error (mean of 2 seeds); the untouched "
                   "base has 3.0000 (-31.7%)",
    ("show", "nowhere"): "error: nowhere is not a study: it has no trials.jsonl; studies here: s",
    ("sweep", "mine.yaml"): "no such file; give your own sweep file, or one that ships: sweeps/demo.yaml, ",
    ("preview", "--rows"): "Error: Option '--rows' requires an argument.",
}
ALL_OF_THEM = f"""
import contextlib
from kaggle_runner.cli.main import main
for line in {list(SAID)!r}:
    print("$", *line, flush=True)
    with contextlib.suppress(SystemExit):
        main(list(line))
"""


@pytest.mark.parametrize(("columns", "environ"), [
    (80, {}), (80, {"NO_COLOR": "1"}), (200, {"TERM": "dumb"}), (None, {})],
    ids=["80", "NO_COLOR", "dumb 200", "pipe"])
def test_what_is_said_fits_its_terminal_and_is_the_same_everywhere(tmp_path, columns, environ):
    write_study(tmp_path / "s", [Made(params={"lora_r": 8, "seed": seed}, value=2.0 + seed / 10) for seed in range(2)],
                parameters={"lora_r": {"values": [8, 16]}}, baseline=3.0)
    if columns is None:
        said = subprocess.run([sys.executable, "-c", ALL_OF_THEM], cwd=tmp_path, text=True, check=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT).stdout
    else:
        terminal = Terminal(["-c", ALL_OF_THEM], tmp_path, COLUMNS=str(columns), **environ)
        assert terminal.end() == 0
        said = terminal.screen
        assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", said).split("\r\n"))) <= columns
    if columns is None or environ:
        assert "\x1b" not in said
    flowing = " ".join(said.split())
    assert not [sentence for sentence in SAID.values() if sentence not in flowing], said


def test_ctrl_c_right_after_the_start_is_one_line_and_130(tmp_path):
    command = [sys.executable, "-m", "kaggle_runner", "dry-run", "--count", "1", "--study", "s"]
    slow = held(tmp_path / "held", tmp_path / "s" / "trials.jsonl", begun=1, free=0, seconds=10)
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **slow}, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=250)
    assert process.returncode == 130, said
    assert first.startswith("warning: ")
    assert "Traceback" not in said
    assert "Aborted" not in said


def commands(group, before=""):
    for name, command in group.commands.items():
        yield f"{before} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{before} {name}".strip())


def test_every_command_is_in_a_group_and_has_examples_that_parse():
    listed = [name for _, names in SECTIONS for name in names]
    assert len(listed) == len(set(listed))
    known = dict(commands(cli))
    assert {name for name in known if " " not in name} <= set(listed)
    assert known.keys() <= EXAMPLES.keys()
    for name, lines in EXAMPLES.items():
        for line in lines if name in known else ():
            arguments = shlex.split(line)
            command, own = known[arguments[0]], arguments[1:]
            if isinstance(command, click.Group) and own:
                command, own = command.commands[own[0]], own[1:]
            with command.make_context(line, own):
                assert name in line


@pytest.mark.parametrize("columns", ["80", "50"])
def test_help_has_whole_sentences_in_its_width(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= int(columns)
    assert "..." not in said.replace("[ARGS]...", "")
    assert [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "Options:", *(f"{title}:" for title, names in SECTIONS if any(name in cli.commands for name in names))]
    for _, command in commands(cli):
        assert command.get_short_help_str(limit=1000).endswith((".", "]"))


def test_no_argument_says_the_three_commands_to_begin_with(capsys):
    with pytest.raises(SystemExit, match=r"^0$") as ended:
        main([])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert re.findall(r"^  python -m kaggle_runner ([\w-]+)", said, re.MULTILINE) == ["dry-run", "detect", "sweep"]


def test_help_on_a_narrow_terminal_breaks_no_word_and_only_commands_to_copy_are_longer(capsys, monkeypatch):
    for name, command in [("", cli), *commands(cli)]:
        said = {}
        for columns in (40, 400):
            monkeypatch.setenv("COLUMNS", str(columns))
            with pytest.raises(SystemExit, match=r"^0$"):
                main([*name.split(), "--help"])
            said[columns] = capsys.readouterr().out
        words = [re.sub(r"-\n? +", "-", text.replace("|", " ")).split() for text in said.values()]
        assert sorted(words[0]) == sorted(words[1]), name
        long = [line for line in said[40].splitlines() if len(line) > 40]
        assert all(line.startswith("    python -m kaggle_runner ") for line in long), long
        assert command.name


@pytest.mark.parametrize("line", ["plan", "show", "dry-run --nothing", "dry-run --count 0 --no-such-option-of-ours",
                                  "vary a b c"])
def test_a_wrong_line_on_a_narrow_terminal_is_said_in_its_width(tmp_path, line):
    terminal = Terminal(["-m", "kaggle_runner", *line.split()], tmp_path, COLUMNS="40")
    assert terminal.end() == 2
    lines = terminal.screen.splitlines()
    assert max(map(len, lines)) <= 40, terminal.screen
    wide = Terminal(["-m", "kaggle_runner", *line.split()], tmp_path, COLUMNS="400")
    assert wide.end() == 2
    assert terminal.screen.split() == wide.screen.split()


WORDS = "数据集里有很多行需要重新检查一次以免出错 then データ 🙂🙂🙂 and café zusammen " * 3


@pytest.mark.parametrize("width", [30, 40, 80])
def test_signs_of_two_columns_are_counted_as_two(tmp_path, width):
    for text in (fitted("why", WORDS, width), flowing(f"  {WORDS}", width)):
        assert max(map(columns_of, text.splitlines())) <= width
        assert max(map(columns_of, text.splitlines())) > width - 12, "lines are filled"
        assert "".join(text.removeprefix("why").split()) == "".join(WORDS.split())
        assert {"then", "and", "café", "zusammen"} <= set(re.findall(r"[a-zé]+", text))
    made = read_study(write_study(tmp_path / "s", [
        Made(value=1 + number, steps=1, params={"dataset": name, "lora_r": 8 * number})
        for number, name in enumerate(("数据.jsonl", "plain.jsonl"))], parameters={
            "dataset": {"values": ["数据.jsonl", "plain.jsonl"]}, "lora_r": {"values": [0, 8]}}))
    header, *rows = trial_table(made, width=None).splitlines()[-3:]
    places = [columns_of(line[:line.index(cell)]) for line, cell in zip(
        (header, *rows), ("lora_r", " 0" if "数据" in rows[0] else " 8", " 8" if "数据" in rows[0] else " 0"),
        strict=True)]
    assert len({places[0], places[1] + 1, places[2] + 1}) == 1, (header, rows)
    assert max(map(columns_of, trial_table(made, width=width).splitlines())) <= width


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_files_and_studies(tmp_path, study, shell):
    def ask(**environ):
        return subprocess.run([sys.executable, "-m", "kaggle_runner"], cwd=study.directory.parent, text=True,
                              capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environ}).stdout

    assert "kaggle-runner" in ask(_KAGGLE_RUNNER_COMPLETE=f"{shell}_source")
    if shell == "bash":
        typed = {"_KAGGLE_RUNNER_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
        assert "plain,dry-run" in ask(COMP_WORDS="kaggle-runner dry", **typed)
        typed["COMP_CWORD"] = "2"
        assert "plain,sweeps/demo.yaml" in ask(COMP_WORDS="kaggle-runner sweep sweeps/d", **typed)
        assert "plain,study" in ask(COMP_WORDS="kaggle-runner show st", **typed)


BASH = """
compopt() {{ echo "option $2"; }}; complete() {{ :; }}
source /dev/stdin <<< "$(_KAGGLE_RUNNER_COMPLETE=bash_source kaggle-runner)"
COMP_WORDS=(kaggle-runner {words}) COMP_CWORD={place}
_kaggle_runner_completion kaggle-runner
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
BASH_OFFERS = {
    "sweep ''": {"sweeps/demo.yaml", "mine.yaml", "s u b/"}, "push ''": {"sweeps/demo.yaml", "mine.yaml", "s u b/"},
    "sweep m": {"option default"}, "show ''": {"study", "s u b/"}, "try x": {"option dirnames"},
    "archived ''": {"option default"}}
"""What stands after the program's name -> what must be among what bash offers; an option is its own completion."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_offers_the_files_and_folders_that_an_argument_takes(tmp_path):
    write_study(tmp_path / "study", [Made(value=2.0)])
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "s u b").mkdir()
    program = tmp_path / "bin" / "kaggle-runner"  # click calls a program, or a function of the shell, by its version
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -m kaggle_runner\n")
    program.chmod(0o755)
    for typed, wanted in BASH_OFFERS.items():
        script = BASH.format(words=typed, place=len(shlex.split(typed)))
        offered = subprocess.run(["bash", "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True,
                                 env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.pathsep.join(
                                     (str(program.parent), os.environ["PATH"]))}).stdout.splitlines()
        assert wanted <= set(offered), (typed, offered)
        assert "mine.yaml" not in offered or typed.split()[0] not in ("show", "try"), "only folders are studies"


MISTAKES = {
    "show": (2, r"Missing argument 'STUDY'\. Studies here: kept$"),
    "archive": (2, r"Missing argument 'STUDY'\. Studies here: kept$"),
    "export": (2, r"Missing argument 'STUDY'\. Studies here: kept$"),
    "restore": (2, r"Missing argument 'STUDY'\. Those that can come back: python -m kaggle_runner archived$"),
    "sweep": (2, r"Missing argument 'FILE'\. Give one of this folder: sweeps/own\.yaml, or one that ships: "
                 r"sweeps/demo\.yaml, sweeps/lora_t4\.yaml, sweeps/lora_t4_rank\.yaml$"),
    "plan": (2, r"Missing argument 'FILE'\. Give one of this folder: sweeps/own\.yaml, or one that ships: "),
    "push": (2, r"Missing argument 'SWEEP'\. Give one of .*rank\.yaml, or a sweep on W&B by its ID$"),
    "vary": (2, r"Missing argument 'FILE'\. Give your own file, or one that ships: sweeps/charlm_vary\.yaml$"),
    "tune": (2, r"Missing argument 'PLAN'\. Give your own file, or one that ships: sweeps/charlm_plan\.yaml, "),
    "train": (2, r"Missing argument 'FILE'\. Give a file of hyperparameters, .* or a study; studies here: kept$"),
    "show nowhere": (1, r"nowhere is not a study: it has no trials\.jsonl; studies here: kept"),
    "show ''": (2, "is empty; give the directory of a study"),
    "report": (2, r"Missing argument 'STUDIES\.\.\.'\. Studies here: kept$"),
    "report ''": (2, "is empty; give the directory of a study"),
    "sweep nowhere.yaml": (1, r"give one of this folder: empty\.yaml, list\.yaml, or one that ships: "
                              r"sweeps/demo\.yaml, sweeps/lora_t4\.yaml, sweeps/lora_t4_rank\.yaml$"),
    "vary nowhere.yaml": (1, r"or one that ships: sweeps/charlm_vary\.yaml$"),
    "tune nowhere.yaml": (1, r"or one that ships: sweeps/charlm_plan\.yaml, sweeps/charlm_plan_small\.yaml$"),
    "sweep ''": (2, "is empty; give a path"),
    "dry-run --study ''": (2, "'--study': is empty"),
    "vary empty.yaml": (1, r"the file is empty; copy sweeps/charlm_vary\.yaml and change it"),
    "vary list.yaml": (1, r"must be a mapping with vary, values and baseline, but the file is a list; copy"),
    "tune list.yaml": (1, r"must be a mapping with baseline and studies, but the file is a list; copy"),
    "train empty.yaml": (1, r"the file is empty; write one on each line, such as learning_rate: 1\.0e-4"),
    "push mine": (1, r"'mine': 1 problem\n  is no sweep file here and no sweep on W&B"),
    "push 'a b c'": (1, "is no sweep file here and no sweep on W&B"),
    "kernel launcher ''": (1, "is no sweep file here and no sweep on W&B"),
    "kernel launcher kept": (1, "is a folder; give a sweep file in it"),
    "agent mine.yaml": (1, r"is a file, and not yet a sweep on W&B; make one with: .* mine\.yaml --backend wandb"),
    "agent kept": (1, r"is a folder and no sweep on W&B; give ID, PROJECT/ID"),
    "stop nonsense!": (1, "is no sweep on W&B; give ID, PROJECT/ID"),
    "push abcd1234 --dataset x": (2, "'--dataset': must be OWNER/SLUG"),
    "push abcd1234 --kernel a/b/c": (2, "'--kernel': must be OWNER/KERNEL"),
    "push abcd1234 --model a/b/c": (2, "'--model': must be OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"),
    "push abcd1234 --image 'a b'": (2, "'--image': must be an image's name"),
    "push abcd1234 --files '('": (2, "'--files': is no regular expression: missing"),
    "push abcd1234 --machine ''": (2, "'--machine': must be Kaggle's name of a machine.*--cpu"),
    "push abcd1234 --owner 'a b'": (2, "'--owner': must be a Kaggle account"),
    "pull x": (2, "must be OWNER/KERNEL"),
    "kernel launcher sweeps/lora_t4.yaml --out notes.txt": (1, "notes.txt is there and is no launcher; move it away"),
    "kernel prepare --folder other": (1, "is of a kernel that runs train.py; move it away"),
    "restore kept": (1, r"kept is not an archived study: it has no archived\.json"),
    "dry-run --study rows": (1, r"cannot use rows as a study: it is a folder with other files \(rows\.jsonl\)"),
    "dry-run --study lost": (1, r"lost/trials\.jsonl is empty or gone, but lost/trials holds 2 of its trials"),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    desk = tmp_path_factory.mktemp("desk")
    demo(desk / "kept", count=1)
    for path, content in {"empty.yaml": "", "list.yaml": "- a\n- b\n", "notes.txt": "dear diary",
                          "rows/rows.jsonl": "{}", "sweeps/own.yaml": "method: grid\nparameters: {}\n",
                          "other/kernel-metadata.json": '{"code_file": "train.py"}', "lost/trials.jsonl": "",
                          "lost/trials/0000/config.json": "{}", "lost/trials/0001/config.json": "{}"}.items():
        (desk / path).parent.mkdir(exist_ok=True, parents=True)
        (desk / path).write_text(content)
    return desk


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_said_with_the_way_out(capsys, monkeypatch, desk, line):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status, message = MISTAKES[line]
    before = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=rf"^{status}$") as ended:
        main(shlex.split(line))
    said = capsys.readouterr().err
    assert ended.value.code == status, said
    assert re.search(message, said.strip(), re.MULTILINE | re.DOTALL), said
    assert {path: path.read_bytes() for path in before} == before
    for path in (desk / "rows" / "study.lock", desk / "lost" / "study.lock"):
        path.unlink(missing_ok=True)


def test_show_names_the_page_only_while_it_shows_every_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo(Path("my study"), count=2)
    assert next_lines(read_study(Path("my study"))) == [("next", "python -m kaggle_runner report 'my study'")]
    write_page([Path("my study")])
    page = [("next", "my study/report/index.html")]
    assert next_lines(read_study(Path("my study"))) == page
    (tmp_path / "my study" / "trials.jsonl").touch()
    os.utime(tmp_path / "my study" / "report" / "index.html", (0, 0))
    assert next_lines(read_study(Path("my study"))) == page, "a copy's times say nothing"
    with open("my study/trials.jsonl", "a") as journal:
        journal.write('{"event": "baseline", "value": 4.0, "time": 1}\n')
    assert next_lines(read_study(Path("my study"))) == [("next", "python -m kaggle_runner report 'my study'")]


def test_show_names_the_command_that_goes_on_where_there_is_more_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("cut")
    demo(folder, count=2, others=[Made(status=Status.PREEMPTED), Made(status=None)])
    with Study.open_for_writing(folder, name="made", sweep=read_study(folder).info.sweep, metric="eval/loss",
                                goal="minimize", seed=0) as study:
        study.append({"event": "session", "trials": 8,
                      "command": "python -m kaggle_runner sweep mine.yaml --study cut"})
        assert next_lines(read_study(folder)) == [
            ("running", "a process is adding to it"), ("next", "python -m kaggle_runner report cut --watch")]
    assert next_lines(read_study(folder)) == [
        ("open", "2 trials cut off, 4 trials of 8 not begun"),
        ("next", "python -m kaggle_runner sweep mine.yaml --study cut"),
        ("report", "python -m kaggle_runner report cut")]


GOES_ON = {  # a command, where its study lies now, and the command that goes on with it there
    "sweep mine.yaml": [("studies/made", "sweep mine.yaml"), ("made", "sweep mine.yaml --study made")],
    "sweep mine.yaml --study cut --count 8": [
        ("cut", "sweep mine.yaml --study cut --count 8"), ("my copy", "sweep mine.yaml --count 8 --study 'my copy'")],
    "train studies/a --full --study=fin": [("other/fin", "train studies/a --full --study other/fin")],
    "agent me/p/abcd1234": [("studies/abcd1234", "agent me/p/abcd1234"),
                            ("studies/other", "agent me/p/abcd1234 --study studies/other")],
    "tune plan.yaml": [("hyperparameter_tuning/0_lr", "tune plan.yaml"), ("tuned/0_lr", "tune plan.yaml --out tuned")],
    "sweep mine.yaml --storage sqlite:///all.db": [("copy", "sweep mine.yaml --storage sqlite:///all.db")],
}


@pytest.mark.parametrize("typed", GOES_ON)
def test_the_command_that_goes_on_leads_to_the_study_where_it_lies_now(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    for place, expected in GOES_ON[typed]:
        folder = tmp_path / place
        demo(folder, count=1, others=[Made(status=None)])
        with Study.open_for_writing(folder, name="made", sweep=read_study(folder).info.sweep, metric="eval/loss",
                                    goal="minimize", seed=0) as study:
            study.append({"event": "session", "trials": 8, "command": f"python -m kaggle_runner {typed}"})
        assert dict(next_lines(read_study(folder)))["next"] == f"python -m kaggle_runner {expected}"


def test_the_command_that_goes_on_leads_to_the_study_from_another_folder_too(tmp_path, monkeypatch):
    folder = tmp_path / "studies" / "made"
    demo(folder, count=1, others=[Made(status=None)])
    with Study.open_for_writing(folder, name="made", sweep=read_study(folder).info.sweep, metric="eval/loss",
                                goal="minimize", seed=0) as study:
        study.append({"event": "session", "command": "python -m kaggle_runner sweep sweeps/demo.yaml"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dict(next_lines(read_study(folder)))["next"] == \
        f"python -m kaggle_runner sweep sweeps/demo.yaml --study {folder}"


def test_archived_studies_come_back_by_the_command_that_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    demo(Path("lab/my study"), count=1)
    said = ""
    for line in ("archive 'lab/my study' --reason 'wrong text'", "archived lab", "archived nowhere"):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(shlex.split(line))
        said = capsys.readouterr().out
        if line != "archived nowhere":
            back = said.splitlines()[-1].removeprefix("back     python -m kaggle_runner ")
    assert said == "nothing was archived from nowhere: there is no such folder\n"
    with pytest.raises(SystemExit, match=r"^0$"):
        main(shlex.split(back))
    assert capsys.readouterr().out == "restored lab/my study\nnext     python -m kaggle_runner show 'lab/my study'\n"
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["restore", "lab/my study"])
    assert "lab/my study is not an archived study" in capsys.readouterr().err


def test_names_that_make_one_folder_are_kept_apart(tmp_path, monkeypatch, capsys):
    from kaggle_runner.cli.shared import directory_of, refuse_among_rows
    from kaggle_runner.errors import StudyError
    from kaggle_runner.machine.environment import detect

    monkeypatch.chdir(tmp_path)
    environment = detect({"KAGGLE_RUNNER_HOST": "local"}, Path("/"))
    demo(Path("studies/a-b"), count=1, name="a/b")
    assert directory_of("a/b", environment) == Path("studies/a-b")
    with pytest.raises(StudyError, match="holds the study of 'a/b', whose name makes the same folder as 'a-b'; choose"):
        directory_of("a-b", environment)
    Path("rows").mkdir()
    with pytest.raises(StudyError, match=r"cannot use rows/study as a study: it lies in rows, whose files are read"):
        refuse_among_rows(Path("rows/study"), "./rows")


def test_vary_says_every_problem_and_none_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("vary: hidden_size\nvalues: [16, 16, -3]\nbaseline:\n  trainer: charlm\n  widht: 3\n")
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["vary", "mine.yaml"])
    said = capsys.readouterr().err
    assert "no hyperparameter" not in said.replace("no such hyperparameter", "")
    assert "widht" in said
    Path("mine.yaml").write_text("vary: learning_rate\nvalues: [1.0e-3, 1.0e-3, -3]\nbaseline:\n  trainer: charlm\n")
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["vary", "mine.yaml"])
    said = capsys.readouterr().err
    assert "values[1]: 0.001 is there twice" in said
    assert "values[2]: -3: " in said


@pytest.mark.parametrize(("ref", "pushed_by", "said"), [
    ("me/k-session-2", "run push a.yaml --kernel me/k --wait", "run push a.yaml --wait --kernel me/k-session-2"),
    ("me/k", "run push a.yaml --kernel me/other --wait", "run push a.yaml --kernel me/other --wait --kernel me/k"),
    ("me/k-session-3", "run push a --kernel=me/k-session-2", "run push a --kernel me/k-session-3"),
    ("me/k", "", "the push that made it, with --kernel me/k")])
def test_a_kernel_that_left_work_is_gone_on_with_by_mounting_its_output(ref, pushed_by, said):
    assert push_again(ref, pushed_by) == said
