"""What may be given on the command line: paths that are not empty, names as Kaggle writes them; and their completion.

What has a wrong shape is refused at once, by its option's name, and not after a wait in Kaggle's queue.
"""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    TextType = click.ParamType[str]
else:
    TextType = click.ParamType  # generic since click 8.5 only

SLUG = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


class GivenPath(click.Path):
    """A path; empty text is none, where it would mean the current directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or refuse it."""
        text = str(value)
        if not text.strip():
            self.fail("is empty; give a path, or . for the current directory", param, ctx)
        if "\0" in text or any(len(part.encode()) > 255 for part in Path(text).parts):
            self.fail(f"no file can have this name: {text[:40]!r}", param, ctx)
        return super().convert(value, param, ctx)


def offered(ours: Iterable[str], incomplete: str, kind: str) -> list[CompletionItem]:
    """Return what of ours begins like that, beside the files or folders that do.

    Where it is only the shell's own matter, the shell is asked: it knows `~` and quotes. Both at once would be the last
    one alone in bash.
    """
    found = [text for text in ours if text.startswith(incomplete)]
    if not found:
        return [CompletionItem(incomplete, type=kind)]
    folder, _, begun = incomplete.rpartition("/")
    near = Path(folder or ("/" if incomplete.startswith("/") else "."))
    here: list[str] = []
    with contextlib.suppress(OSError):
        here = [f"{incomplete.removesuffix(begun)}{path.name}{'/' if path.is_dir() else ''}"
                for path in sorted(near.iterdir()) if path.name.startswith(begun)
                and (begun or not path.name.startswith(".")) and (kind == "file" or path.is_dir())]
    known = {text.rstrip("/") for text in found}
    return [CompletionItem(text) for text in (*found, *(text for text in here if text.rstrip("/") not in known))]


class SweepFile(GivenPath):
    """A file of this machine, or one that ships: `sweeps/demo.yaml`; `mark` is the key that tells its kind."""

    def __init__(self, mark: str = "parameters") -> None:
        super().__init__()
        self.mark = mark

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the files that ship beside those that are here."""
        from kaggle_runner.sweep.yaml_file import shipped_files

        return offered(map(str, shipped_files()), incomplete, "file")


class StudyPath(GivenPath):
    """The directory of a study."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the studies that are here beside the folders."""
        from kaggle_runner.study.near import studies_near

        return offered(map(str, studies_near(Path(incomplete or "."))), incomplete, "dir")


class SweepText(TextType):
    """A sweep file, or a sweep on W&B, as text."""

    name = "sweep"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the files that ship beside those that are here."""
        return SweepFile().shell_complete(ctx, param, incomplete)


class StudyText(TextType):
    """The directory of a study, or a sweep on W&B, as text."""

    name = "study"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, unless it is empty."""
        if not str(value).strip():
            self.fail("is empty; give the directory of a study, or a sweep on W&B", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the studies that are here beside the folders."""
        return StudyPath().shell_complete(ctx, param, incomplete)


class Shaped(TextType):
    """Text of a shape, such as OWNER/SLUG."""

    name = "text"

    def __init__(self, pattern: str, form: str) -> None:
        self._pattern, self._form = pattern, form

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or refuse it."""
        if not re.fullmatch(self._pattern, str(value)):
            self.fail(f"must be {self._form}, got {value!r}", param, ctx)
        return str(value)


class Regex(TextType):
    """A regular expression."""

    name = "REGEX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or say what is wrong with it."""
        try:
            re.compile(str(value))
        except re.error as error:
            self.fail(f"is no regular expression: {error}; files of a name are \\.csv$ or result\\.json", param, ctx)
        return str(value)


DATASET = Shaped(f"{SLUG}/{SLUG}", "OWNER/SLUG, the end of its page's address")
MODEL = Shaped(rf"{SLUG}(/{SLUG}){{3}}/[1-9]\d*", "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION, the version a number")
IMAGE = Shaped(r"[a-z0-9][\w.:-]*(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?",
               "an image's name with its tag or digest, such as gcr.io/kaggle-gpu-images/python:v1")
OWNER = Shaped(r"[A-Za-z0-9][A-Za-z0-9_-]*", "a Kaggle account, the part of your page's address after kaggle.com/")
MACHINE = Shaped(r".*\S.*", "Kaggle's name of a machine, such as NvidiaTeslaT4; without a GPU it is --cpu")
KERNEL = Shaped(f"{SLUG}/{SLUG}", "OWNER/KERNEL, the end of its page's address")
SWEEP = SweepText()
TEXT = Shaped(r".*\S.*", "a text that is not empty")
