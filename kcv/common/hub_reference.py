"""Names of models in the Hugging Face Hub, as users type them: `hf://OWNER/NAME` and `hf://OWNER/NAME@COMMIT`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kcv.common.text import printable, shortened
from kcv.errors import UsageError

HUB_FORM = "hf://OWNER/NAME[@COMMIT]"

_SCHEME = "hf://"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
"""A name in the Hub (huggingface_hub, `validate_repo_id`): no dash or dot at its ends, and neither `--` nor `..`."""
_REVISION = re.compile(r"[\w./-]{1,200}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KINDS = ("buckets", "datasets", "kernels", "models", "spaces")
"""What the Hub calls other things than models by: `hf://datasets/owner/name`."""
_SHORT = 7  # digits of a commit that tell it apart, as git shows it


@dataclass(frozen=True)
class HubReference:
    """A model in the Hugging Face Hub.

    Attributes:
        owner: the user or organisation.
        name: name of the repository.
        revision: what stands after the @; None if nothing does.
    """

    owner: str
    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubReference:
        """Parses a reference.

        Raises:
            UsageError: it has another form.

        Example:
            >>> HubReference.parse("hf://anna/photos").repository
            'anna/photos'
        """
        place, at, revision = text.removeprefix(_SCHEME).partition("@")
        parts = place.split("/")
        if parts[0] in _KINDS:
            raise _refused(text, f"only models are read, by {HUB_FORM}")
        if not text.startswith(_SCHEME) or len(parts) != 2 or not all(map(_is_name, parts)):
            raise _refused(text, f"allowed: {HUB_FORM}")
        if at and not _REVISION.fullmatch(revision):
            raise _refused(text, "after the @ a commit is allowed, 40 hexadecimal digits")
        return cls(parts[0], parts[1], revision if at else None)

    @property
    def repository(self) -> str:
        """Owner and name, as the Hub writes them: `anna/photos`."""
        return f"{self.owner}/{self.name}"

    @property
    def text(self) -> str:
        """The reference as a user types it."""
        return f"{_SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision is not None else "")

    @property
    def is_pinned(self) -> bool:
        """Whether it names a commit, which cannot change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubReference:
        """Returns the reference to one commit of the same repository."""
        return HubReference(self.owner, self.name, commit)

    @property
    def title(self) -> str:
        """A name for a folder: `anna-photos`, and the first digits of the commit if it is pinned."""
        return f"{self.owner}-{self.name}" + (f"-{str(self.revision)[:_SHORT]}" if self.is_pinned else "")


def is_in_hub(named: object) -> bool:
    """Returns whether a user named something in the Hub, in whichever form, rather than a file."""
    return isinstance(named, str) and named.startswith(_SCHEME)


def is_commit(text: object) -> bool:
    """Returns whether a text is a whole commit, 40 hexadecimal digits."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def _is_name(part: str) -> bool:
    return _PART.fullmatch(part) is not None and "--" not in part and ".." not in part and not part.endswith(".git")


def _refused(text: str, what: str) -> UsageError:
    return UsageError(f"{printable(shortened(text))}: {what}.")
