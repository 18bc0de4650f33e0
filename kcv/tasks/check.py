"""Checking data before a network is trained on it: damaged files, duplicates, leaks between splits, odd images.

source -> every image, decoded once -> findings, the worst first -> (a file)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user, write_csv, write_json
from kcv.common.parameters import Between, Described, PythonOnly, checked, renamed
from kcv.errors import UsageError
from kcv.quality.findings import KINDS, Finding, SampleRef
from kcv.tasks import described_sources

if TYPE_CHECKING:
    from kcv.config import Config
    from kcv.data.dataset import Source
    from kcv.data.folder_tree.summary import Understood
    from kcv.reporting.label_errors import SuspectedLabels

__all__ = ["KINDS", "DataCheck", "Finding", "SampleRef", "check"]

OUTPUTS = (".json", ".csv")
COLUMNS = ("finding", "kind", "severity", "picture", "split", "class", "similarity", "message")


@dataclass(frozen=True)
class DataCheck:
    """What a check found.

    Attributes:
        data: the source, as it was named.
        class_names: its classes.
        counts: images under each split.
        findings: the worst kinds first, in the order of `KINDS`.
        understood: what the folders of the source were taken for, where it has some.
        strict: whether warnings count as errors.
        augmented: the drawing of augmented images, if there is one.
        labels: the images whose labels are probably wrong, if a model was named.
        page: the page with these images.
    """

    data: str
    class_names: tuple[str, ...]
    counts: dict[str, int]
    findings: Sequence[Finding]
    understood: Understood | None = None
    strict: bool = False
    augmented: Path | None = None
    labels: SuspectedLabels | None = None
    page: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether training can begin: there are no errors, and under `strict` no warnings either."""
        return not (self.findings if self.strict else self.errors)

    @property
    def errors(self) -> int:
        """How many findings make training impossible or its results wrong."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many findings are for a person to judge."""
        return len(self.findings) - self.errors

    @property
    def by_kind(self) -> dict[str, int]:
        """How many findings there are of each kind that was found."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if kind in found}

    def leaked(self, *, near: bool = True) -> dict[str, int]:
        """Returns, for val and test, how many of their images have a copy in train.

        Args:
            near: whether nearly equal images count, too.
        """
        kinds = ("leak", "near_leak") if near else ("leak",)
        names: dict[str, set[str]] = {"val": set(), "test": set()}
        for finding in self.findings:
            if finding.kind in kinds and any(image.split == "train" for image in finding.images):
                for image in finding.images:
                    if image.split in names:
                        names[image.split].add(image.name)
        return {split: len(found) for split, found in names.items() if found}

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {
            "data": self.data,
            "classes": list(self.class_names),
            "pictures": self.counts,
            "understood": self.understood.to_dict() if self.understood else None,
            "errors": self.errors,
            "warnings": self.warnings,
            "by_kind": self.by_kind,
            "leaked": {"exact": self.leaked(near=False), "exact_or_near": self.leaked()},
            "findings": [finding.to_dict() for finding in self.findings],
            "augmented": None if self.augmented is None else str(self.augmented),
            "label_errors": None
            if self.labels is None
            else {"estimated": self.labels.estimated, "suspects": len(self.labels.rows), "page": str(self.page)},
        }

    def write(self, path: Path) -> None:
        """Writes all findings: as JSON, or as CSV with a row for each image of each.

        Raises:
            OutputError: it cannot be written.
        """
        if path.suffix == ".json":
            write_json(path, self.to_dict())
            return
        nobody = SampleRef("", "", "")
        rows = [
            (
                number, finding.kind, finding.severity, image.name, image.split, image.class_name,
                finding.similarity, finding.message,
            )
            for number, finding in enumerate(self.findings, 1)
            for image in finding.images or (nobody,)
        ]  # fmt: skip
        write_csv(path, COLUMNS, rows)


@renamed(source="data")
@checked
def check(
    data: Annotated[str | Path, Described(described_sources)],
    output: str | Path | None = None,
    *,
    similarity: Annotated[float, Between(0.5, 1)] | None = None,
    strict: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
    image_folder: str | None = None,
    augment: str | Path | None = None,
    model: str | Path | None = None,
    progress: Annotated[bool, PythonOnly()] = False,
) -> DataCheck:
    """Check data before training: damaged files, duplicates, leaks between splits, odd images.

    Every image is read as `train` would read it.

    Args:
        data: source of the images.
        output: write all findings to this file: .json or .csv.
        similarity: similarity threshold for near-duplicates (1: exact only); default: 0.8, or 0.95 where that would be
            most of the images.
        strict: count warnings as errors, too (exit code 2).
        image_column: the column of the images, or of their paths; default: by its name or type.
        label_column: the column of the labels; default: by its name or type.
        config: the configuration to read, where a repository or folder has several.
        image_folder: the folder that the paths in a label file start from; default: that of the file.
        augment: draw training images as this configuration file, or this policy of augmentation, would change them:
            augmented.png (and .svg) in the folder of `output`, or in the working folder.
        model: also report labels that are probably wrong, by a model that was not trained on these images: the folder
            of a training in folds of them (train --folds), or a model file or run folder. They are also written to
            label_errors.csv and, with the images, to label_errors.html, in the folder of `output`, or in the working
            folder.
        progress: show progress bars on a terminal.

    Raises:
        UsageError: `output` ends in something else.
        ArtifactError: `model` cannot be opened.
        ConfigError: `augment` is neither a policy nor a configuration that can be used.
        DataError: there is no such source, or nothing in it that could be checked.
        OutputError: `output` cannot be written.

    Example:
        $ kcv check path/to/images
        $ kcv check path/to/images --output=findings.csv
        $ kcv check path/to/images --augment=photos
        $ kcv check path/to/images --model=runs/folds
        >>> [finding.message for finding in kcv.check("path/to/images").findings]
    """
    path = expand_user(output) if output is not None else None
    if path is not None and path.suffix not in OUTPUTS:
        raise UsageError(f"{output}: the report must end in {' or '.join(OUTPUTS)}.")
    changes = None if augment is None else _augmented_by(augment)
    from kcv.data import loading
    from kcv.data.dataset import SPLITS
    from kcv.data.sources import SourceOptions
    from kcv.quality import statistics
    from kcv.quality.copies.duplicates import duplicates
    from kcv.quality.copies.scan import scan

    options = SourceOptions(image_column, label_column, config, image_folder)
    source = loading.open_source(str(data), options=options)
    folder = (path or Path()).parent
    labels, doubted, page = (None, [], None) if model is None else _judge(source, model, folder, progress=progress)
    scanned = scan(source, progress=progress)
    order = list(KINDS)
    findings = sorted(
        chain(
            statistics.formats(scanned),
            statistics.splits(source),
            duplicates(scanned, similarity, progress=progress),
            doubted,
            statistics.layout(source),
            statistics.names(source),
            statistics.ignored(source),
            statistics.ranges(scanned),
            statistics.shapes(scanned),
            statistics.imbalance(source),
        ),
        key=lambda finding: order.index(finding.kind),
    )
    counts = {split: len(source.splits[split]) for split in SPLITS if split in source.splits}
    drawing = None if changes is None else _draw(changes, source, folder / "augmented.png")
    found = DataCheck(
        source.name, source.class_names, counts, findings, source.understood, strict, drawing, labels, page
    )
    if path is not None:
        found.write(path)
    return found


def _judge(
    source: Source, model: str | Path, folder: Path, *, progress: bool
) -> tuple[SuspectedLabels, list[Finding], Path]:
    """Finds labels that are probably wrong, and writes them; returns them, as findings too, and the page."""
    from kcv.inference.label_check import judge
    from kcv.reporting.label_errors import PAGE, suspected_labels, write_label_errors

    judged = judge(source, model, progress=progress)
    samples = judged.samples
    found = suspected_labels(samples.names, samples.labels, judged.probabilities, judged.class_names)
    write_label_errors(folder, found, samples, data=source.name, measured=judged.measured)
    findings = [
        Finding(
            "label_error",
            f"{row['path']}: labelled {row['label']}, looks like {row['suggested']} ({row['probability']:.0%})",
            [SampleRef(row["path"], judged.splits[position], row["label"])],
        )
        for row, position in zip(found.rows, found.positions.tolist(), strict=True)
    ]
    return found, findings, folder / PAGE


def _augmented_by(augment: str | Path) -> Config:
    """Returns the configuration of a file, or of one of the policies."""
    from kcv.config import Config
    from kcv.config.policies import POLICIES

    if str(augment) in POLICIES and not Path(augment).is_file():
        return Config.load(**{"augment.policy": str(augment)})
    path = expand_user(augment)
    if not path.exists():
        raise UsageError(f"--augment: {augment} is neither a file nor a policy ({', '.join(POLICIES)}).")
    return Config.load(path)


def _draw(config: Config, source: Source, path: Path) -> Path:
    """Draws some training images and what augmentation makes of them."""
    from kcv.quality.augmented import augmented_views
    from kcv.reporting.plots.augmented import save_augmented_grid

    views = augmented_views(config, source)
    return save_augmented_grid(views.images, views.titles, path, note=views.note)
