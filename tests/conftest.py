"""Small real models and rows that several test files train on."""

import compileall
import gc
import itertools
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores; what needs more says so
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not Path("/dev/nvidiactl").exists():  # Triton runs kernels on a CPU if it is told so before it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # else each process that a test starts compiles the package for itself
    for folder in (Path(__file__).parent.parent / "kaggle_runner", Path(__file__).parent / "standins"):
        compileall.compile_dir(folder, quiet=2)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # of nohup, likewise
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow tests, the widest bounds of time first: one that begins last is waited for by all processes.

    Each process is first given an equal piece of the list, so every piece begins with its share of them.
    """
    slow = sorted((item for item in items if item.get_closest_marker("slow")), key=_bound_s, reverse=True)
    others = iter([item for item in items if not item.get_closest_marker("slow")])
    processes, left = getattr(config, "workerinput", {}).get("workercount", 1), len(items)
    dealt: list[pytest.Item] = []
    for number in range(processes):
        size, first = left // (processes - number), slow[number::processes]
        dealt += [*first, *itertools.islice(others, max(0, size - len(first)))]
        left -= size
    items[:] = [*dealt, *others]


def _bound_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return marker.args[0] if marker else 0.0


@pytest.fixture(autouse=True)
def visible_gpus():
    """A session that a test runs in this process hides the GPUs from it, and from what later tests start."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the libraries' million objects out of every later collection: a tenth of what the tests compute."""
    gc.collect()
    gc.freeze()


def wait_for(condition: Callable[[], bool], seconds: float = 100.0) -> bool:
    """Wait until something holds, and say whether it did; a loaded machine takes its time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that nobody has reaped yet does not, and its parent here may be a lazy init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def alpaca_rows(count):
    """Rows with something to learn: the answer repeats the question's word."""
    words = ["red", "green", "blue", "amber", "violet", "white", "black", "orange", "silver", "brown"]
    return [{"instruction": f"say {words[i % 10]} {i} times {words[(i * 7) % 10]}", "input": "",
             "output": f"{words[i % 10]} is said {i} times, and {words[(i * 7) % 10]} after it"} for i in range(count)]


def mixed_turns(count):
    """Conversations with one answer, with two, and with a system turn: what a real set of chats has among its rows."""
    for i, row in enumerate(alpaca_rows(count)):
        turns = [("user", row["instruction"]), ("assistant", row["output"])]
        more = [("user", "again"), ("assistant", row["output"].split()[0])] if i % 3 == 0 else []
        system = [("system", "be brief")] if i % 5 == 0 else []
        yield {"messages": [{"role": role, "content": text} for role, text in (*system, *turns, *more)]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache of data and models that the tests of a file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def begin(tmp_path, cache):
    """Start agents of W&B sweeps in processes of the real client: `begin(server, body, *arguments)`.

    Their locks of GPUs, which are the machine's, are this test's alone.
    """
    from tests.standins.wandb_agent import starter
    from tests.standins.wandb_client import clients

    with (tempfile.TemporaryDirectory(prefix="agents-", ignore_cleanup_errors=True) as locks,
          clients(tmp_path) as start):
        yield starter(start, cache, TMPDIR=locks)


@pytest.fixture
def fixed(tmp_path):
    """The fixed parameters of a character model, whose worker starts fastest, and 40 steps."""
    from tests.standins.wandb_agent import character_settings

    return character_settings(tmp_path, steps=40, evaluations=4)


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory) -> Path:
    """A JSON-lines file of 200 conversations, a third of which have two answers."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in mixed_turns(200)))
    return path


@pytest.fixture(scope="session")
def tokenizer_of_the_demo_base():
    from transformers import AutoTokenizer

    from kaggle_runner.training.models.base_model import model_source

    return AutoTokenizer.from_pretrained(model_source("demo"))


def save_tiny(config, folder, tokenizer):
    """Make a model with fixed random weights and save it with a tokenizer as any model is saved."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, tokenizer_of_the_demo_base) -> Path:
    """A two-layer Llama with grouped-query attention."""
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=len(tokenizer_of_the_demo_base), hidden_size=64, intermediate_size=128,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=256, tie_word_embeddings=False)
    return save_tiny(config, tmp_path_factory.mktemp("llama"), tokenizer_of_the_demo_base)


@pytest.fixture(scope="session")
def wide_llama(tmp_path_factory, tokenizer_of_the_demo_base) -> Path:
    """A Llama whose activations, not its weights, take the memory."""
    from transformers import LlamaConfig

    config = LlamaConfig(vocab_size=len(tokenizer_of_the_demo_base), hidden_size=64, intermediate_size=4096,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512)
    return save_tiny(config, tmp_path_factory.mktemp("wide"), tokenizer_of_the_demo_base)


@pytest.fixture
def torchao(tmp_path):
    """Return a function that lays an empty torchao of a version into a folder for PYTHONPATH."""

    def lay(version):
        package, facts = tmp_path / "image" / "torchao", tmp_path / "image" / f"torchao-{version}.dist-info"
        package.mkdir(parents=True)
        facts.mkdir()
        (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n")
        return package.parent
    return lay
