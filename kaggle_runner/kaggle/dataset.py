"""A folder in a private dataset of the user's own account, by the `kaggle` program.

Its exit status is 0 for a refusal, and it calls an upload successful that the server turned down. So nothing is
believed that Kaggle's own list of the dataset's files does not say.
Source: kaggle/api/kaggle_api_extended.py of 2.2.4, dataset_create_new, upload_files and _upload_blob.
"""

import csv
import io
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner.errors import KernelError, Refusal
from kaggle_runner.files import IN_PLACE, cannot_write
from kaggle_runner.kaggle.program import TIMEOUT_S, Answer, Kaggle, find_owner, refuse
from kaggle_runner.wording import size_text

METADATA = "dataset-metadata.json"
NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9]+)*")
NAME_LENGTH = range(6, 51)
"""Source: dataset_create_new."""
READY_LIMIT_S = 900.0
"""Small datasets are ready at once; 228 MB have been seen to take 15 minutes."""
MODEL_READY_LIMIT_S = 3600.0
SLOWEST_BYTES_S = 2**19
"""An upload slower than this is given up."""


@dataclass(frozen=True, kw_only=True)
class DatasetTarget:
    """A dataset of the account that a folder may be put into."""

    ref: str
    kaggle: Kaggle
    public: bool
    there: Mapping[str, int]
    """The files that it held when it was looked for, with their sizes; none where it is not there."""

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://www.kaggle.com/datasets/{self.ref}"


def find_dataset_target(name: str, kaggle: Kaggle, marker: str, *, public: bool = False) -> DatasetTarget:
    """Check a dataset's name and the account's right to it, before a model is made for it.

    `marker` is the file by which a dataset of ours is known.

    Raises:
        KernelError: the name is malformed, of another account or taken, or Kaggle knows no such account.
    """
    owner, _, slug = name.rpartition("/")
    if "/" in owner or name.startswith("/") or not NAME.fullmatch(slug) or len(slug) not in NAME_LENGTH:
        raise KernelError(Refusal.NAME, f"--push {name!r} is no name for a dataset on Kaggle; write it as name or "
                                        f"owner/name, with {NAME_LENGTH.start} to {NAME_LENGTH.stop - 1} small letters "
                                        f"(a to z), digits and single '-' between them")
    own = find_owner(kaggle)
    if owner and owner != own:
        raise KernelError(Refusal.NAME, f"--push {name} is of another account than yours, which is {own}; write it as "
                                        f"{own}/{slug}")
    ref = f"{own}/{slug}"
    target = DatasetTarget(ref=ref, kaggle=kaggle, public=public, there=_files_there(kaggle, ref))
    if target.there and marker not in target.there:
        raise _taken(target)
    return target


def publish_dataset(folder: Path, target: DatasetTarget, marker: str, tell: Callable[[str], None], *,
                    poll_s: float = 5.0) -> int:
    """Put a folder's files into a dataset; return how many were sent: none where Kaggle has them all already.

    The `kaggle` program keeps what it has sent of each file, so the same call goes on where one broke off.

    Raises:
        KernelError: the dataset is of something else, Kaggle refuses it or cannot be reached, or does not hold in the
            end what was sent.
        StudyError: the folder's parent cannot be written.
    """
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size
             for path in sorted(folder.rglob("*")) if path.is_file()}
    if target.there and not _is_ours(target, folder, marker):
        raise _taken(target)
    if target.there and (shown := is_public(target.kaggle, target.ref)) is not None and shown != target.public:
        tell(f"warning: {target.ref} is {'public' if shown else 'private'}, and a dataset that is there stays as "
             f"it is; change it on {target.url}/settings")
    if target.there == sizes:
        return 0
    # Links beside the folder: the program needs a file of its own in it, and knows a file that it has sent in part by
    # its path, so the place must be the same the next time.
    staged = folder.with_name(f".{folder.name}.kaggle")
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        for name in sizes:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).symlink_to((folder / name).resolve())
        tell(f"sending {size_text(sum(sizes.values()))} to Kaggle")
        upload(target.kaggle, staged, target.ref, public=target.public, replace=bool(target.there),
               timeout_s=TIMEOUT_S + sum(sizes.values()) / SLOWEST_BYTES_S)
    except OSError as error:
        raise cannot_write(staged, error, way_out=IN_PLACE) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    wait_until_ready(target.kaggle, target.ref, tell, limit_s=MODEL_READY_LIMIT_S, poll_s=poll_s)
    there = _files_there(target.kaggle, target.ref)
    lacking = [name for name, size in sizes.items() if there.get(name) != size]
    if lacking:
        raise KernelError(Refusal.OTHER, f"{target.url} does not hold {', '.join(lacking[:3])} as sent; run the same "
                                         f"command again")
    return len(sizes)


def upload(kaggle: Kaggle, folder: Path, ref: str, *, public: bool = False, replace: bool = False,
           note: str = "new files", timeout_s: float = TIMEOUT_S) -> bool:
    """Make a dataset of a folder, or the only version of it; write its metadata there; return whether it was there.

    Raises:
        KernelError: refused.
    """
    title = ref.split("/")[1].replace("-", " ")
    (folder / METADATA).write_text(json.dumps({"id": ref, "title": title, "licenses": [{"name": "other"}]}),
                                   encoding="utf-8")
    if not replace:
        answer = kaggle.run("datasets", "create", "-p", str(folder), "--quiet", *(["--public"] if public else []),
                            timeout_s=timeout_s)
        replace = "already in use" in answer.text
    if replace:
        answer = kaggle.run("datasets", "version", "-p", str(folder), "--quiet", "--delete-old-versions",
                            "--message", note, timeout_s=timeout_s)
    if answer.exit_status or "being created" not in answer.stdout:
        _refuse_upload(answer, ref)
    return replace


def wait_until_ready(kaggle: Kaggle, ref: str, tell: Callable[[str], None], *, limit_s: float = READY_LIMIT_S,
                     poll_s: float = 5.0) -> None:
    """Return when a dataset can be attached.

    Raises:
        KernelError: it is not ready in time, or Kaggle cannot be reached.
    """
    began = time.monotonic()
    while not is_ready(kaggle, ref):
        if time.monotonic() - began > limit_s:
            raise KernelError(Refusal.SOURCE, f"{ref} is not ready after {limit_s / 60:.0f} minutes; look at "
                                              f"https://www.kaggle.com/datasets/{ref}")
        tell(f"Kaggle is processing {ref}")
        time.sleep(poll_s)


def is_ready(kaggle: Kaggle, ref: str) -> bool:
    """Say whether a dataset can be attached; one that is being processed looks like one that is not there.

    Raises:
        KernelError: no credentials or no network.
    """
    answer = kaggle.run("datasets", "status", ref)
    if answer.exit_status and not answer.is_denied:
        refuse(answer, "datasets status")
    return answer.stdout.strip() == "ready"


def is_public(kaggle: Kaggle, ref: str) -> bool | None:
    """Say whether everybody sees a dataset; none where it is not there, or Kaggle does not say."""
    with tempfile.TemporaryDirectory(prefix="kaggle_runner-metadata-") as directory:
        kaggle.run("datasets", "metadata", ref, "--path", directory)
        try:
            said = json.loads((Path(directory) / METADATA).read_text(encoding="utf-8"))
            return not (said.get("info") or said).get("isPrivate", False)  # what is false is left out
        except (OSError, ValueError, AttributeError):
            return None


def _files_there(kaggle: Kaggle, ref: str) -> dict[str, int]:
    """Return the dataset's files with their sizes; none where there is no such dataset, or not yet."""
    answer = kaggle.run("datasets", "files", ref, "--csv", "--page-size", "200")
    if answer.exit_status:
        if not answer.is_denied:
            refuse(answer, "datasets files")
        return {}
    rows = csv.DictReader(io.StringIO(answer.stdout[max(answer.stdout.find("name,"), 0):]))
    return {row["name"]: int(row["size"]) for row in rows if (row.get("size") or "").isdigit()}


def _is_ours(target: DatasetTarget, folder: Path, marker: str) -> bool:
    """Say whether the dataset is of the same export, by its marker."""
    with tempfile.TemporaryDirectory(prefix="kaggle_runner-marker-") as directory:
        target.kaggle.run("datasets", "download", target.ref, "--file", marker, "--path", directory, "--quiet")
        found = Path(directory) / marker
        return found.is_file() and found.read_bytes() == (folder / marker).read_bytes()


def _taken(target: DatasetTarget) -> KernelError:
    return KernelError(Refusal.NAME, f"--push {target.ref} is taken: it holds something else, such as "
                                     f"{min(target.there)}; choose another name, or delete it on {target.url}")


def _refuse_upload(answer: Answer, ref: str) -> None:
    for line in answer.stdout.splitlines():
        if "creation error: " in line:
            said = line.split("creation error: ")[1].strip()
            if "not own" in said:
                raise KernelError(Refusal.NAME, f"Kaggle says: {said}; give your own account with --owner")
            raise KernelError(Refusal.OTHER, f"Kaggle says: {said}")
    if "was denied" in answer.text:
        raise KernelError(Refusal.NAME, f"Kaggle does not let this account write to {ref}, or still processes it; wait "
                                        f"a little, or choose another name")
    refuse(answer, "datasets create")
