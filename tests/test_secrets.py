"""No key here is real; each is planted, and must appear in no message."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_runner.errors import SecretError
from kaggle_runner.machine.keys import (
    SECRET_FILE,
    FoundKey,
    find_key,
    key_problem,
    redact,
    require_key,
    secret_file_text,
    secret_values,
)

KEY = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def netrc(path, machine, key):
    return write(path, f"machine {machine}\n  login user\n  password {key}\n")


def dataset(root, layout, service="wandb", key=KEY):
    return write(root / "kaggle/input" / layout / SECRET_FILE, secret_file_text(service, key))


@pytest.mark.parametrize(("service", "variable"), [
    ("wandb", "WANDB_API_KEY"), ("kaggle", "KAGGLE_API_TOKEN"), ("kaggle", "KAGGLE_KEY"), ("huggingface", "HF_TOKEN"),
    ("huggingface", "HUGGING_FACE_HUB_TOKEN"),
])
def test_a_key_in_the_environment_is_found(tmp_path, service, variable):
    found = find_key(service, {variable: KEY}, tmp_path)
    assert (found.source, found.value) == (f"{variable} in the environment", KEY)


def test_a_key_is_shown_by_no_way_of_printing_it(tmp_path):
    found = find_key("wandb", {"WANDB_API_KEY": KEY}, tmp_path)
    assert str(found) == f"{found}" == "W&B key in WANDB_API_KEY in the environment"
    assert KEY not in f"{found!r} {[found]} {found}"
    assert [f.name for f in dataclasses.fields(found) if f.repr] == ["service", "source"]


def test_white_space_around_a_key_is_dropped(tmp_path):
    assert find_key("wandb", {"WANDB_API_KEY": f" {KEY}\n"}, tmp_path).value == KEY


def test_an_empty_variable_is_no_key(tmp_path):
    assert find_key("wandb", {"WANDB_API_KEY": " "}, tmp_path) is None


@pytest.mark.parametrize("layout", ["datasets/someone/kaggle-runner-secret", "kaggle-runner-secret"])
def test_a_dataset_is_found_in_either_layout(tmp_path, layout):
    path = dataset(tmp_path, layout)
    found = find_key("wandb", {}, tmp_path)
    assert (found.source, found.value) == (str(path), KEY)


def test_of_several_datasets_the_one_of_the_service_is_taken(tmp_path):
    dataset(tmp_path, "datasets/me/a-token", "huggingface", "hf_" + OTHER)
    dataset(tmp_path, "datasets/me/b-key", "wandb", KEY)
    assert find_key("wandb", {}, tmp_path).value == KEY
    assert find_key("huggingface", {}, tmp_path).value == "hf_" + OTHER
    assert find_key("kaggle", {}, tmp_path) is None


def test_a_large_dataset_is_not_searched_through(tmp_path):
    """Image sets have millions of files; only the top folder of a dataset counts."""
    dataset(tmp_path, "datasets/me/images/train")
    dataset(tmp_path, "images/train")
    assert find_key("wandb", {}, tmp_path) is None


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"service": "wandb"}'])
def test_a_damaged_dataset_says_what_to_do(tmp_path, text):
    write(tmp_path / "kaggle/input/x" / SECRET_FILE, text)
    with pytest.raises(SecretError, match="is not what `secret put` writes; run it again"):
        find_key("wandb", {}, tmp_path)


@pytest.mark.parametrize(("machine", "environ"), [
    ("api.wandb.ai", {}), ("api.forge.coreweave.com", {}),
    ("api.wandb.ai", {"WANDB_BASE_URL": "https://api.forge.coreweave.com"}),
    ("api.forge.coreweave.com", {"WANDB_BASE_URL": "https://api.wandb.ai"}),
    ("wandb.example.org:8080", {"WANDB_BASE_URL": "http://wandb.example.org:8080/"}),
])
def test_netrc_is_read_for_the_server_in_use(tmp_path, home, machine, environ):
    path = netrc(home / ".netrc", machine, KEY)
    found = find_key("wandb", {"HOME": str(home), **environ}, tmp_path)
    assert (found.source, found.value) == (f"{path}, machine {machine}", KEY)


def test_a_key_of_another_server_is_not_handed_out(tmp_path, home):
    netrc(home / ".netrc", "api.wandb.ai", KEY)
    assert find_key("wandb", {"HOME": str(home), "WANDB_BASE_URL": "http://127.0.0.1:9"}, tmp_path) is None


def test_a_netrc_default_is_no_wandb_key(tmp_path, home):
    write(home / ".netrc", f"default login me password {KEY}\n")
    assert find_key("wandb", {"HOME": str(home)}, tmp_path) is None


def test_the_netrc_variable_beats_the_home_directory(tmp_path, home):
    netrc(home / ".netrc", "api.wandb.ai", OTHER)
    netrc(home / "keys/mine", "api.wandb.ai", KEY)
    assert find_key("wandb", {"HOME": str(home), "NETRC": "~/keys/mine"}, tmp_path).value == KEY


def test_a_damaged_netrc_is_named_without_its_content(tmp_path, home):
    write(home / ".netrc", f"machine api.wandb.ai\n  {KEY}\n")
    with pytest.raises(SecretError, match=r"\.netrc cannot be read as netrc near line \d; mend the line") as caught:
        find_key("wandb", {"HOME": str(home)}, tmp_path)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("name", "text"), [
    (".kaggle/access_token", KEY + "\n"), (".kaggle/access_token.txt", KEY),
    (".kaggle/kaggle.json", json.dumps({"username": "me", "key": KEY})),
    (".config/kaggle/kaggle.json", json.dumps({"username": "me", "key": KEY})),
    (".kaggle/credentials.json", json.dumps({"refresh_token": KEY})),
])
def test_the_files_of_the_kaggle_program_are_read(tmp_path, home, name, text):
    path = write(home / name, text)
    found = find_key("kaggle", {"HOME": str(home)}, tmp_path)
    assert (found.source, found.value) == (str(path), KEY)


def test_kaggle_config_dir_is_respected(tmp_path, home):
    write(tmp_path / "elsewhere/kaggle.json", json.dumps({"key": KEY}))
    environ = {"HOME": str(home), "KAGGLE_CONFIG_DIR": str(tmp_path / "elsewhere")}
    assert find_key("kaggle", environ, tmp_path).value == KEY


def test_a_kaggle_token_can_be_the_name_of_a_file(tmp_path):
    path = write(tmp_path / "token", KEY)
    found = find_key("kaggle", {"KAGGLE_API_TOKEN": str(path)}, tmp_path)
    assert (found.source, found.value) == ("the file named by KAGGLE_API_TOKEN", KEY)


def test_a_kaggle_session_has_a_token_of_its_own(tmp_path, home):
    environ = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_API_V1_TOKEN": str(write(tmp_path / "v1", KEY))}
    assert find_key("kaggle", environ, tmp_path).source == "the file named by KAGGLE_API_V1_TOKEN"


def test_a_kaggle_file_without_a_key_says_what_to_do(tmp_path, home):
    write(home / ".kaggle/kaggle.json", "{}")
    with pytest.raises(SecretError, match=r"kaggle\.json is not a Kaggle key file: it has no 'key'; download it again"):
        find_key("kaggle", {"HOME": str(home)}, tmp_path)


@pytest.mark.parametrize(("name", "variables"), [
    (".cache/huggingface/token", {}), ("hf/token", {"HF_HOME": "~/hf"}), ("t", {"HF_TOKEN_PATH": "~/t"}),
    ("x/huggingface/token", {"XDG_CACHE_HOME": "~/x"}),
])
def test_the_token_file_of_hugging_face_is_read(tmp_path, home, name, variables):
    path = write(home / name, f"hf_{KEY}\n")
    found = find_key("huggingface", {"HOME": str(home), **variables}, tmp_path)
    assert (found.source, found.value) == (str(path), f"hf_{KEY}")


def test_the_environment_beats_a_dataset_and_a_dataset_beats_a_file(tmp_path, home):
    netrc(home / ".netrc", "api.wandb.ai", "n" * 40)
    assert find_key("wandb", {"HOME": str(home)}, tmp_path).value == "n" * 40
    dataset(tmp_path, "datasets/me/secret", key="d" * 40)
    assert find_key("wandb", {"HOME": str(home)}, tmp_path).value == "d" * 40
    assert find_key("wandb", {"HOME": str(home), "WANDB_API_KEY": KEY}, tmp_path).value == KEY


@pytest.mark.parametrize(("key", "problem"), [
    ("hf_plantedplantedplanted", "looks like a Hugging Face key"),
    (KEY[:39], "has 39 characters, and a W&B key has 40 or more"),
    ("local-" + KEY[:38], "has 38 characters"),
    (KEY[:20] + " " + KEY[20:], "has white space or control characters in the middle"),
    (KEY[:20] + "\x00" + KEY[20:], "has white space or control characters in the middle"),
    (f"'{KEY}'", "has characters other than letters, digits, - and _"),
])
def test_a_malformed_wandb_key_is_said_without_being_shown(tmp_path, key, problem):
    with pytest.raises(SecretError, match=f"W&B key in WANDB_API_KEY in the environment {problem}.*copy it") as caught:
        find_key("wandb", {"WANDB_API_KEY": key}, tmp_path)
    assert not [start for start in range(len(key) - 5) if key[start:start + 6] in str(caught.value)]


def test_a_malformed_key_is_not_passed_over_for_a_good_one(tmp_path, home):
    netrc(home / ".netrc", "api.wandb.ai", KEY)
    with pytest.raises(SecretError, match="WANDB_API_KEY in the environment has 5 characters"):
        find_key("wandb", {"HOME": str(home), "WANDB_API_KEY": "short"}, tmp_path)


@pytest.mark.parametrize("key", [KEY, "local-" + KEY, "wandb_v1_" + "A" * 77, "aa.bb-b.cc_c"])
def test_keys_that_wandb_takes_are_taken(key):
    assert key_problem("wandb", key) is None


def test_the_rule_for_wandb_keys_is_that_of_the_client():
    validation = pytest.importorskip("wandb.sdk.lib.wbauth.validation", reason="older clients keep it elsewhere")
    for key in (KEY, KEY[:39], "local-" + KEY, "a-" + KEY[:39], "a.b.c", "a..c", KEY + "!", "-" + KEY, "a-b-" + KEY):
        assert (key_problem("wandb", key) is None) == (validation.check_api_key(key) is None), key


@pytest.mark.parametrize(("service", "host", "way_out"), [
    ("wandb", "kaggle", r"a push detaches Kaggle's own secrets.*python -m kaggle_runner secret put wandb"),
    ("huggingface", "kaggle", "python -m kaggle_runner secret put huggingface"),
    ("kaggle", "kaggle", "a kernel needs none"),
    ("wandb", "colab", r"from google\.colab import userdata; os\.environ\['WANDB_API_KEY'\] = userdata\.get"),
    ("wandb", "local", "export WANDB_API_KEY=.*wandb login"),
    ("kaggle", "local", "kaggle auth login"),
    ("huggingface", "local", "hf auth login"),
])
def test_a_missing_key_says_in_one_line_what_to_do_on_this_host(tmp_path, service, host, way_out):
    with pytest.raises(SecretError, match=way_out) as caught:
        require_key(service, host, {}, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_notebook_that_somebody_types_in_has_secrets_of_its_own(tmp_path):
    with pytest.raises(SecretError, match=r"attach the secret WANDB_API_KEY to this notebook \(Add-ons, Secrets\)"):
        require_key("wandb", "kaggle", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, tmp_path)


def test_a_key_that_is_there_is_required_in_vain(tmp_path):
    assert require_key("wandb", "local", {"WANDB_API_KEY": KEY}, tmp_path).value == KEY


def test_an_unknown_service_names_the_known_ones(tmp_path):
    with pytest.raises(SecretError, match="no such service 'wandbb'; choose one of wandb, kaggle, huggingface"):
        find_key("wandbb", {}, tmp_path)


def test_what_is_put_into_a_dataset_is_checked_first():
    with pytest.raises(SecretError, match="the W&B key has 3 characters"):
        secret_file_text("wandb", "abc")


def test_keys_are_taken_out_of_a_text():
    found = FoundKey(service="wandb", source="here", value=KEY)
    assert redact(f"a {KEY} b {OTHER} c {KEY}{OTHER}", [found, OTHER, ""]) == "a *** b *** c ******"


def test_a_longer_key_is_taken_out_before_one_it_contains():
    assert redact("x abcdefgh-long x", ["abcdefgh", "abcdefgh-long"]) == "x *** x"


def test_the_credentials_of_an_environment_are_taken_out():
    environ = {"WANDB_API_KEY": KEY, "MY_PASSWORD": "correcthorse", "TOKENIZERS_PARALLELISM": "disabled-here",
               "SOME_TOKEN": "short", "PATH": "/usr/bin:/bin"}
    assert redact(f"{KEY} correcthorse disabled-here short /usr/bin:/bin", environ) == (
        "*** *** disabled-here short /usr/bin:/bin")


def test_secret_values_hold_the_keys_of_the_host_too(tmp_path, home):
    dataset(tmp_path, "datasets/me/secret")
    environ = {"HOME": str(home), "HF_TOKEN": "hf_" + OTHER}
    assert secret_values(environ) == ("hf_" + OTHER,)
    assert set(secret_values(environ, tmp_path)) == {"hf_" + OTHER, KEY}


FAKE_COLAB = f"""
import sys, types
from pathlib import Path

class SecretNotFoundError(Exception):
    pass

def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(members)
    return sys.modules[name]

def get(name):
    if name != "WANDB_API_KEY":
        raise SecretNotFoundError(name)
    return "{KEY}"

Shell = type("Shell", (), {{"__module__": "google.colab._shell"}})
shell = Shell()
module("google")
module("google.colab", userdata=module("google.colab.userdata", get=get))
module("IPython", get_ipython=lambda: shell)
"""


def in_python(script, environ=None, path=None):
    """Run a script in a Python of its own and return what it prints."""
    package = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, env={
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, [package, path])), **(environ or {})})
    return done.stdout.strip() or done.stderr


def test_colabs_secrets_are_read_inside_a_notebooks_kernel():
    script = FAKE_COLAB + """
shell.kernel = object()
from kaggle_runner.machine.keys import find_key
found = find_key("wandb", {}, Path("/nowhere"))
print(found.source, found.value, find_key("huggingface", {}, Path("/nowhere")))
"""
    assert in_python(script) == f"Colab's secret WANDB_API_KEY {KEY} None"


@pytest.mark.parametrize("outside", ["shell.kernel = None; del shell.kernel", "del sys.modules['IPython']",
                                     "shell = None", "shell = object()"])
def test_colabs_secrets_are_left_alone_outside_a_kernel(outside):
    """There the real `userdata.get` dies with an AttributeError on None, or waits for a page that is not open."""
    script = FAKE_COLAB.replace('return "', 'raise SystemExit("asked") #') + f"""
{outside}
from kaggle_runner.machine.keys import find_key
print(find_key("wandb", {{}}, Path("/nowhere")))
"""
    assert in_python(script) == "None"


KAGGLE_SECRETS = f"""
class UserSecretsClient:
    '''As Kaggle's: a missing secret and no network come as the same error.'''

    def get_secret(self, label):
        if label != "WANDB_API_KEY":
            raise ConnectionError("Connection error trying to communicate with service.")
        return "{KEY}"
"""


@pytest.mark.parametrize(("run_type", "printed"), [("Interactive", "Kaggle's secret WANDB_API_KEY None"),
                                                   ("Batch", "None None")])
def test_kaggles_secrets_are_asked_in_interactive_sessions_only(tmp_path, run_type, printed):
    write(tmp_path / "kaggle_secrets.py", KAGGLE_SECRETS)
    script = """
import os; from pathlib import Path; from kaggle_runner.machine.keys import find_key
found = find_key("wandb", os.environ, Path("/nowhere"))
print(found and found.source, find_key("huggingface", os.environ, Path("/nowhere")))
"""
    assert in_python(script, {"KAGGLE_KERNEL_RUN_TYPE": run_type}, str(tmp_path)) == printed


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_cannot_be_read_is_named(tmp_path, home):
    netrc(home / ".netrc", "api.wandb.ai", KEY).chmod(0)
    with pytest.raises(SecretError, match=r"cannot read .*\.netrc: Permission denied; mend its permissions"):
        find_key("wandb", {"HOME": str(home)}, tmp_path)
