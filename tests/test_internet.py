"""Whether a session has the internet: real servers on loopback that answer, refuse, or say nothing."""

import http.server
import re
import socket
import threading

import pytest

from kaggle_runner.errors import HostError, NoInternet
from kaggle_runner.kernel.main import require_machine
from kaggle_runner.machine.environment import detect
from kaggle_runner.machine.internet import INTERNET_VARIABLE, require_internet, servers_of


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that is up and says no to everything."""

    def do_HEAD(self):
        self.send_response(503)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def refusing():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent():
    """A port that takes connections and never answers, as behind a firewall."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


def closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_any_answer_is_the_internet_also_where_another_server_is_silent(refusing, silent):
    require_internet({"one": silent, "another": refusing}, "kaggle", answer_s=100.0, pause_s=0.0, neutral=())


@pytest.mark.timeout(60)
def test_a_silent_server_is_not_waited_for_when_another_has_answered(refusing, silent):
    require_internet({"one": silent, "another": refusing}, "kaggle", answer_s=3600, pause_s=0.0, neutral=())
    with pytest.raises(HostError, match=f"no answer from {closed()[:17]}.*, while {refusing} answers; wait until"):
        require_internet({"one": closed()}, "kaggle", answer_s=3600, pause_s=0.0, neutral=(silent, refusing))


@pytest.mark.parametrize(("names", "message"), [
    (["the hub"], r"HF_ENDPOINT is CLOSED, and no answer comes from there \(.*refused.*\), while OPEN answers; correct "
                  r"it, or unset it for https://huggingface\.co"),
    (["W&B"], "WANDB_BASE_URL is CLOSED, and no answer .*, while OPEN answers; .* for https://api.wandb.ai"),
    (["one"], r"no answer from CLOSED \(.*refused.*\), while OPEN answers; wait until it is up again"),
])
@pytest.mark.parametrize("neutral", [True, False])
def test_a_server_that_does_not_answer_is_not_the_internet(refusing, names, message, neutral):
    """Neutral ones answer, or the other server of the command; a usual address may be down where that one is up."""
    address = closed()
    others, neutrals = ({}, (refusing,)) if neutral else ({"another": refusing}, ())
    servers = {**dict.fromkeys(names, address), **others}
    if names == ["one"] and not neutral:
        require_internet(servers, "kaggle", pause_s=0.0, neutral=())
        return
    with pytest.raises(HostError, match=message.replace("CLOSED", address).replace("OPEN", refusing)):
        require_internet(servers, "kaggle", pause_s=0.0, neutral=neutrals)


def test_a_silent_server_ends_no_session_that_may_not_need_it(tmp_path, refusing, capsys):
    environ = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "WANDB_BASE_URL": refusing, "HF_ENDPOINT": closed(), "PATH": ""}
    kernel = detect(environ, tmp_path)
    require_machine(["agent", "me/p/abcd1234", "--cpu"], kernel, environ)
    assert re.match(rf"warning: HF_ENDPOINT is {environ['HF_ENDPOINT']}, and no answer comes", capsys.readouterr().err)


@pytest.mark.parametrize(("host", "way_out"), [
    ("kaggle", r'--no-internet \(enable_internet of the kernel\), or turn on the switch "Internet".*phone is verified, '
               r"at https://www\.kaggle\.com/settings"),
    ("colab", "restart the session"), ("local", "look at the network"),
])
def test_no_answer_is_said_with_the_name_of_the_switch(host, way_out):
    address = closed()
    with pytest.raises(NoInternet, match=rf"internet is off in this session: no answer from {address} .*refused.*; "
                                         f".*{way_out}") as caught:
        require_internet({"the hub": address}, host, pause_s=0.0, neutral=())
    assert caught.value.exit_status == 22


def test_a_server_that_says_nothing_is_not_waited_for(silent):
    with pytest.raises(NoInternet, match=rf"no answer from {silent} or {silent} \((nothing in 0.2 s|timed out)\)"):
        require_internet({"W&B": silent, "the hub": silent}, "kaggle", answer_s=0.2, pause_s=0.0, neutral=())


def test_a_proxy_that_lets_nothing_through_is_no_internet(refusing, monkeypatch):
    monkeypatch.setenv("https_proxy", refusing)
    with pytest.raises(NoInternet, match=r"internet is off in this session: no answer from https://hub\.example"):
        require_internet({"the hub": "https://hub.example"}, "kaggle", pause_s=0.0, neutral=())


def test_the_servers_are_those_that_the_command_needs():
    assert servers_of("agent", {}) == {"W&B": "https://api.wandb.ai", "the hub": "https://huggingface.co"}
    assert servers_of("sweep", {}) == {"the hub": "https://huggingface.co"}
    assert servers_of("sweep", {"HF_ENDPOINT": "https://mirror.example"}) == {"the hub": "https://mirror.example"}
    assert servers_of("sweep", {"HF_HUB_OFFLINE": "1"}) == {}
    assert servers_of("sweep", {INTERNET_VARIABLE: "off"}) == {}
    assert servers_of("agent", {"HF_HUB_OFFLINE": "true", "WANDB_BASE_URL": "http://w", INTERNET_VARIABLE: "off"}) == \
        {"W&B": "http://w"}
