"""What a person asks of a kernel, such as agents of a W&B sweep or a final training, and the kernel that does it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from slugify import slugify

from kaggle_runner.config import (
    DEMO_DATASET,
    DEMO_MODEL,
    TRAINERS,
    CharLMConfig,
    Config,
    FinetuneConfig,
    needs_bitsandbytes,
    values_in,
)
from kaggle_runner.errors import ConfigError, KernelError, MissingPackages, Refusal, SecretError
from kaggle_runner.kaggle.folder import SLUG_LIMIT, KernelSpec
from kaggle_runner.kaggle.hub_name import why_no_name
from kaggle_runner.kaggle.keys import secret_dataset, secret_sources
from kaggle_runner.kaggle.launcher import Launch
from kaggle_runner.kaggle.machines import T4_X2, check_machine
from kaggle_runner.kaggle.program import find_kaggle, find_owner
from kaggle_runner.machine.internet import INTERNET_VARIABLE
from kaggle_runner.mounts import MOUNTED, fetched, is_of_this_machine
from kaggle_runner.study.near import JOURNAL
from kaggle_runner.sweep.address import is_file_name, require_sweep
from kaggle_runner.sweep.spec import SweepSpec, read_sweep

UPLOAD_VARIABLE = "KAGGLE_RUNNER_UPLOAD_EVERY_S"
"""Environment variable with the seconds between two uploads; `wandb/checkpoints.py` reads it on the kernel."""
GATED = re.compile(r"(?:meta-llama|mistralai|CohereLabs|CohereForAI|swiss-ai|ai21labs)/.+|google/[\w-]*gemma.*|"
                   r"bigcode/(?:starcoder|santacoder).*|stabilityai/stable-?(?:lm|code).+|facebook/MobileLLM.+|"
                   r"databricks/dbrx.+|tiiuae/falcon-180B.*", re.IGNORECASE)
"""Models of the hub that mostly ask for a licence first; a guess from their owners' pages, so it only warns."""
PASSED_ON = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "HF_ENDPOINT")
"""Settings of this machine that say which sweep and which hub are meant; none of them is secret."""
SERVERS = ("WANDB_BASE_URL", "HF_ENDPOINT")
"""Those of them that are the address of a server."""
_LACKS_BITSANDBYTES = ("warning: Kaggle's image lacks bitsandbytes, which load_in_4bit and optimizers of 8 bits need, "
                       "and a kernel without the internet gets it from a wheel alone; mount a dataset that holds it, "
                       "by push with --dataset")
ReadRemote = Callable[[str], SweepSpec | None]
"""Type of what reads a sweep on W&B by its address."""


@dataclass(frozen=True, kw_only=True)
class KernelOrder:
    """What a kernel shall do, and on what.

    Raises:
        SweepError: the sweep is neither a file nor one on W&B.
    """

    sweep: str
    """A W&B sweep by its id, path or URL; or a sweep file to run without W&B; or what `task` is done with."""
    task: Literal["sweep", "train", "export", "try"] = "sweep"
    """What is done: trials of a sweep, the final training of a configuration or of a study's winner, or one of the
    commands about a finished study, which the kernel finds in what it mounts."""
    options: tuple[str, ...] = ()
    """Further arguments of the command, such as `--count 8`."""
    upload_every_s: float | None = None
    """Seconds between two uploads of a running trial's checkpoint to its W&B run; none: it stays on the kernel."""
    owner: str = ""
    """Kaggle account; an empty one means the account that the `kaggle` program is logged in to."""
    title: str = ""
    """Title of the kernel; an empty one is made from the sweep."""
    machine_shape: str = T4_X2
    internet: bool = True
    datasets: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    docker_image: str = ""

    def __post_init__(self) -> None:
        if self.task == "sweep":
            require_sweep(self.sweep)
        elif self.task != "train" and not (self.kernels or self.datasets):
            raise KernelError(Refusal.OTHER, f"on a kernel {self.task} needs the study {self.sweep} among its inputs; "
                                             f"name the kernel that trained it: --kernel OWNER/KERNEL")

    @property
    def is_file(self) -> bool:
        """Whether it is a sweep file, which needs no W&B: one that is there, or text that is named like one."""
        return self.task != "sweep" or is_file_name(self.sweep)


def make_spec(order: KernelOrder, environ: Mapping[str, str], tell: Callable[[str], None], *,
              asks_kaggle: bool = True, read_remote: ReadRemote = lambda address: None) -> KernelSpec:
    """Make the kernel of an order: the command with its settings, the account, and the datasets that hold its keys.

    Without `asks_kaggle` an answer of Kaggle is welcome and not needed, as long as the order names the owner.
    `read_remote` reads a sweep on W&B, whose models may be gated; none where it cannot be read from here.

    Raises:
        ConfigError: the address of a server is none.
        KernelError: no account, or a title or machine that Kaggle would change; a model or rows that the kernel would
            not find; as `secret_sources`.
        MissingPackages: the `kaggle` program is needed and not there.
        SecretError: agents, and no key for them is stored on Kaggle; or a key in the order itself.
        SweepError: the sweep file has problems.
    """
    if warning := check_machine(order.machine_shape):
        tell(f"warning: {warning}")
    if order.task == "export":
        _refuse_characters(Path(order.sweep))
    if missing := _not_on_a_kernel(order):
        raise KernelError(Refusal.SOURCE, f"the kernel would not find {'; nor '.join(missing)}")
    launch, name = make_launch(order, environ, tell)
    owner, keys_are_known = order.owner, True
    try:
        kaggle = find_kaggle(environ)
        owner = owner or find_owner(kaggle)
        keys = secret_sources(kaggle, owner)
    except (KernelError, MissingPackages) as error:
        if asks_kaggle:
            raise
        if not owner:
            refusal = error.refusal if isinstance(error, KernelError) else Refusal.OTHER
            raise KernelError(refusal, f"{error}; or name the account with --owner, and Kaggle need not answer"
                              ) from error
        keys_are_known = False
        keys = () if order.is_file else (secret_dataset(owner, "wandb"),)
        tell(f"warning: {error}; so which keys are stored there is not known"
             f"{f', and {keys[0]} is attached unseen' if keys else ''}")
    if not order.is_file and secret_dataset(owner, "wandb") not in (*keys, *order.datasets):
        raise SecretError("the agents would find no W&B key on the kernel, since a push detaches Kaggle's own secrets; "
                          "store it once with: python -m kaggle_runner secret put wandb")
    if (keys_are_known or order.is_file) and secret_dataset(owner, "huggingface") not in (*keys, *order.datasets):
        unknown = "" if keys_are_known else ", as far as is known"
        copy = "" if order.task in ("export", "try") else (
            f"; or mount Kaggle's copy with --model and write its path there, {MOUNTED['model']}, as `model`")
        for model in gated_models(order, read_remote):
            tell(f"warning: {model} is probably gated, and no Hugging Face key is stored for the kernel{unknown}; "
                 f"accept its licence at https://huggingface.co/{model} and store a key with: python -m kaggle_runner "
                 f"secret put huggingface{copy}")
    if order.task in ("export", "try"):
        _check_base(order, tell)
    check_offline(order, tell)
    return KernelSpec(owner=owner, title=order.title or _title(name), launch=launch, machine_shape=order.machine_shape,
                      internet=order.internet, datasets=tuple(dict.fromkeys((*order.datasets, *keys))),
                      kernels=order.kernels, models=order.models, docker_image=order.docker_image)


def check_offline(order: KernelOrder, tell: Callable[[str], None]) -> None:
    """See that an order for a session without the internet needs nothing of it; any other order is left alone.

    Raises:
        KernelError: it does; says what would be fetched, and from where.
    """
    if order.internet or order.task in ("export", "try"):
        return
    if not order.is_file:
        raise KernelError(Refusal.OTHER, "agents of a W&B sweep need the internet; leave out --no-internet, or push a "
                                         "sweep file, which is searched on the kernel")
    spec = _read(order)[0]
    if lacking := spec.fetched:
        there = f"into a copy of {Path(order.sweep, 'best.yaml')}, for this" if Path(order.sweep).is_dir() else "there"
        raise KernelError(Refusal.SOURCE, f"without the internet the kernel cannot fetch {_listed(lacking)}; "
                                          f"mount a copy of Kaggle's or of yours, by push with --model or --dataset, "
                                          f"and write its path {there}, under /kaggle/input/models or "
                                          f"/kaggle/input/datasets, or leave out --no-internet")
    if _is_quantised(spec):
        tell(f"{_LACKS_BITSANDBYTES}, or write load_in_4bit: false and optim: adamw_torch")


def _listed(lacking: Mapping[str, str]) -> str:
    """Name what is fetched, and from where: one trainer has all of it from one place."""
    return f"{', '.join(lacking)} from {next(iter(lacking.values()))}"


def _config_of(study: Path) -> Config | None:
    """Return what the winner of a study was trained with; none where that is not known here."""
    if not (study / JOURNAL).is_file():
        return None
    from kaggle_runner.study.journal import read_study

    best = read_study(study).best
    return best.trial.config if best else None


def _check_base(order: KernelOrder, tell: Callable[[str], None]) -> None:
    """See that a kernel may find the base of a study's winner, as far as is known here.

    Raises:
        KernelError: the base is on this machine alone, or must be fetched where the kernel has no internet.
    """
    study = Path(order.sweep)
    config, is_here = _config_of(study), (study / JOURNAL).is_file()
    if isinstance(config, FinetuneConfig) and (config.model == DEMO_MODEL or is_of_this_machine(config.model)):
        what = "the demo base, whose weights stay" if config.model == DEMO_MODEL else f"{config.model}, which is"
        raise KernelError(Refusal.SOURCE, f"the kernel would not find the base of {study}: {what} on this machine; "
                                          f"run it here: python -m kaggle_runner {order.task} {study}")
    if order.internet:
        return
    lacking = fetched(config.as_dict()) if config else {}
    if isinstance(config, CharLMConfig) and lacking:
        raise KernelError(Refusal.SOURCE, f"without the internet the kernel cannot fetch {_listed(lacking)}, whose "
                                          f"characters the model of {study} has; leave out --no-internet")
    if isinstance(config, FinetuneConfig) and not Path(config.model).is_absolute():
        raise KernelError(Refusal.SOURCE, f"without the internet the kernel cannot fetch {config.model}, the base of "
                                          f"{study}; leave out --no-internet")
    if lacking:
        tell(f"warning: without the internet the kernel cannot fetch {_listed(lacking)}, so nothing is asked or "
             f"measured on the rows of {study}")
    if not is_here:
        tell(f"warning: {study} is not on this machine, so its base is not known; without the internet the kernel "
             f"finds one under /kaggle/input alone, where the same is mounted as when it was trained")
    if not is_here or (isinstance(config, FinetuneConfig) and config.load_in_4bit):
        tell(_LACKS_BITSANDBYTES)


def _refuse_characters(study: Path) -> None:
    """Refuse to export what no kernel could, where the study is on this machine too.

    Raises:
        KernelError: it holds character models.
    """
    if not (study / JOURNAL).is_file():
        return
    from kaggle_runner.study.journal import read_study

    trainer = read_study(study).info.sweep.get("parameters", {}).get("trainer", {})
    if trainer.get("value") == "charlm":
        raise KernelError(Refusal.OTHER, f"--export is for fine-tunes, and {study} holds charlm models; --try has its "
                                         f"best one write")


def make_launch(order: KernelOrder, environ: Mapping[str, str], tell: Callable[[str], None]) -> tuple[Launch, str]:
    """Return the command of an order with its settings, and the name of its study; no account is needed for it.

    Raises:
        SecretError: a key in the order.
        SweepError: the sweep file has problems.
    """
    settings = {name: environ[name] for name in PASSED_ON if environ.get(name)}
    for name in SERVERS:
        _check_address(name, settings.get(name, ""))
    if order.upload_every_s is not None:
        settings[UPLOAD_VARIABLE] = f"{order.upload_every_s:g}"
    if not order.internet:
        settings[INTERNET_VARIABLE] = "off"
    if not order.is_file:
        address = order.sweep.strip()
        name = address.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        return Launch(arguments=("agent", address, "--study", f"studies/{name}", *order.options),
                      settings=settings), name
    if order.task in ("export", "try"):
        name = Path(order.sweep).name
        return Launch(arguments=(order.task, f"studies/{name}", *order.options), settings=settings), \
            f"{name}-{order.task}"
    spec, name = _read(order)
    for warning in (*spec.warnings, *_only_here(spec.fixed)):
        tell(f"warning: {warning}")
    file = Path(spec.source)
    name = slugify(name) or "sweep"
    return Launch(arguments=(order.task, file.name, "--study", f"studies/{name}", *order.options), settings=settings,
                  files={file.name: file.read_text(encoding="utf-8")}), name


def _check_address(name: str, address: str) -> None:
    """Refuse the address of a server that no kernel could reach, or that holds a password.

    Raises:
        ConfigError: it is none.
        SecretError: it holds a password.
    """
    try:
        parts = urlsplit(address)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if address and not (is_one and re.fullmatch("[!-~]+", address)):
        raise ConfigError(f"{name} is {address!r}, which is no address of a server; write it like https://host, or "
                          f"unset it")
    if address and parts.password:
        raise SecretError(f"{name} holds a password, and would be in the kernel's source; write it without one")


def gated_models(order: KernelOrder, read_remote: ReadRemote) -> tuple[str, ...]:
    """Name the models of a sweep, or of a study's winner, whose owners want a licence accepted before a download."""
    if order.task in ("export", "try"):
        config = _config_of(Path(order.sweep))
        models = [config.model] if isinstance(config, FinetuneConfig) else []
    else:
        spec = _read(order)[0] if order.is_file else read_remote(order.sweep.strip())
        models = [*_values_of(spec, "model")] if spec else []
    return tuple(name for name in models if GATED.fullmatch(name) and not Path(name).exists())


def _values_of(spec: SweepSpec, name: str) -> tuple[str, ...]:
    """Return the values that a parameter of a file can have; of a `model` that it leaves out the demo base."""
    usual = DEMO_MODEL if name == "model" and TRAINERS[spec.trainer] is FinetuneConfig else None
    values = values_in(spec.parameters, name, usual)
    return tuple(dict.fromkeys(str(value) for value in values if value is not None))


def _is_quantised(spec: SweepSpec) -> bool:
    return TRAINERS[spec.trainer] is FinetuneConfig and needs_bitsandbytes(spec.parameters)


def _not_on_a_kernel(order: KernelOrder) -> list[str]:
    """Name the models and rows of a file that no kernel can find, each with the way out: it begins in an empty folder.

    An absolute path of another kind may be in a docker image.
    """
    if not order.is_file or order.task in ("export", "try"):
        return []
    spec, missing = _read(order)[0], []
    mounts, is_finetune = order.datasets or order.kernels or order.models, TRAINERS[spec.trainer] is FinetuneConfig
    named = [(name, value) for name in ("model", "dataset", "eval_dataset") for value in _values_of(spec, name)]
    for name, value in named:
        path, kind = Path(value), "model" if name == "model" else "dataset"
        if (name, value) == ("model", DEMO_MODEL):
            missing.append("the demo base, whose weights stay on this machine; for a try on a kernel write a small "
                           "model of the hub, such as HuggingFaceTB/SmolLM2-135M, as `model`")
        elif is_of_this_machine(value):
            missing.append(f"the {name} {value}, a path of this machine; upload it to Kaggle, mount it with --{kind} "
                           f"and write its path there, {MOUNTED[kind]}")
        elif path.is_relative_to("/kaggle/input") and not mounts:
            missing.append(f"the {name} {value}, because nothing is mounted there; give --{kind}")
        elif other := _mounts_other(order, path):
            missing.append(f"the {name} {value}, because {other}")
        elif not path.is_absolute() and value != DEMO_DATASET and is_finetune and (
                problem := why_no_name(kind, value)):
            missing.append(f"the {name} {value!r}{problem}")
    return missing


def _mounts_other(order: KernelOrder, path: Path) -> str:
    """Say of a path where Kaggle mounts a certain model or dataset that the order does not mount that one; else empty.

    Kaggle writes the path in small letters, surely that of a dataset.
    """
    for kind, given in (("model", order.models), ("dataset", order.datasets)):
        depth = MOUNTED[kind].count("/") - 3
        parts = path.parts[4:4 + depth]
        ref = "/".join(parts)
        if not path.is_relative_to(f"/kaggle/input/{kind}s") or len(parts) != depth:
            continue
        if ref.lower() not in ["/".join(one.split("/")[:depth]).lower() for one in given]:
            mounted = f"only {', '.join(given)}" if given else "nothing"
            return f"--{kind} mounts {mounted}; give --{kind} {ref}"
        if kind == "dataset" and ref != ref.lower():
            return f"Kaggle mounts it in small letters; write {ref.lower()} in it"
    return ""


def _read(order: KernelOrder) -> tuple[SweepSpec, str]:
    """Read the file of an order, and name its study."""
    if order.task == "train":
        from kaggle_runner.study.best_file import final_name, read_chosen, refuse_trained, study_of
        from kaggle_runner.study.journal import read_study  # a sweep file needs no record

        spec, name = read_chosen(Path(order.sweep))
        study, given = study_of(Path(order.sweep)), dict(zip(order.options, order.options[1:], strict=False))
        passes = {"num_train_epochs": float(given["--epochs"])} if "--epochs" in given else {}
        refuse_trained(read_study(study) if study else None, {**spec.fixed, **passes})
        return spec, final_name(name)
    spec = read_sweep(Path(order.sweep))
    spec.require_search()
    return spec, spec.name


def _title(name: str) -> str:
    """Make a title whose slug Kaggle takes, also with the number of a later session behind it."""
    return slugify(f"kaggle runner {name}")[:SLUG_LIMIT - len(" session 99")].strip("-").replace("-", " ")


def _only_here(fixed: Mapping[str, object]) -> list[str]:
    """Warn of what a kernel does not have."""
    warnings = []
    if fixed.get("model") == DEMO_MODEL:
        warnings.append("the demo base stays on this machine; for a try on a kernel write a small model of the hub, "
                        "such as HuggingFaceTB/SmolLM2-135M, as `model`")
    warnings += [f"{name} {fixed[name]} is a path of this machine: a kernel has the hub, and under /kaggle/input what "
                 f"--dataset and --model mount" for name in ("model", "dataset")
                 if fixed.get(name) and Path(str(fixed[name])).expanduser().exists()]
    return warnings
