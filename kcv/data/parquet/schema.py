"""Finds the columns of a Parquet file with the images and the labels, and the class names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kcv.common.text import shortened
from kcv.data.classes import MOST_CLASSES, MOST_NAME
from kcv.data.sources import NO_OPTIONS, SourceOptions
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class Columns:
    """The columns of a file to read.

    Attributes:
        images: path of the leaf column with the encoded images, such as `image.bytes`.
        labels: name of the column with the labels; None if there is none.
        numeric: whether the labels are numbers.
        class_names: the class names that the schema declares; None if it declares none.
    """

    images: str
    labels: str | None
    numeric: bool
    class_names: tuple[str, ...] | None


def columns_of(schema: pa.Schema, file: str, *, labelled: bool = True, options: SourceOptions = NO_OPTIONS) -> Columns:
    """Finds the columns of images and labels.

    Columns that the user named come first. Otherwise images are in `image` or `img`, or in the only column that the
    schema declares as an image (Hugging Face `Image`), or in the only one of a type that images have; labels in `label`
    or `labels`, or in the only column that it declares as class labels (`ClassLabel`), or in the only one of texts or
    whole numbers.

    Args:
        schema: the schema of the file.
        file: its name, for messages.
        labelled: whether it must have labels.
        options: the columns that the user named.

    Raises:
        DataError: a column is missing, duplicated or has another type, or there are too many class names or too long
            ones.
    """
    features = _features(schema, file)
    pictured = [name for name, kind in features.items() if _is(kind, "Image")]
    image = options.column("image", schema.names, file) or _column(schema, IMAGE_COLUMNS, pictured)
    if image is None:
        found = [field.name for field in schema if _holds_image(field.type)]
        if len(found) != 1:
            why = f"; it could be any of {_names(found)}, and data.image_column=NAME names it" if found else ""
            raise DataError(
                f"{file}: needs a column 'image' or 'img' with the images; its columns: {_names(schema.names)}{why}."
            )
        (image,) = found
    declared = [name for name, kind in features.items() if _is(kind, "ClassLabel") and name in schema.names]
    label = options.column("label", schema.names, file) or _column(schema, LABEL_COLUMNS, declared)
    if label is None and labelled:
        label = _label_by_type(schema, image, declared, file)
    for name in (image, label):
        if schema.names.count(name) > 1:
            raise DataError(f"{file}: has {schema.names.count(name)} columns that are called {shortened(name)!r}.")
    images = _images(schema, image, file)
    numeric = label is not None and _numeric(schema.field(label).type, label, file)
    names = _class_names(features.get(label), file) if label is not None and numeric else None
    return Columns(images, label, numeric, names)


def holds_images(schema: pa.Schema) -> bool:
    """Returns whether a column is of a type that images have: binary, or a struct with binary `bytes`."""
    return any(_holds_image(field.type) for field in schema)


def _holds_image(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_by_type(schema: pa.Schema, image: str, declared: Sequence[str], file: str) -> str:
    """Returns the only column of texts or whole numbers.

    Raises:
        DataError: there is none, or there are several.
    """
    import pyarrow as pa

    def holds_labels(kind: pa.DataType) -> bool:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))

    found: list[str] = [field.name for field in schema if field.name != image and holds_labels(field.type)]
    if len(found) == 1:
        return found[0]
    several = f"; {_names(declared)} are labels of classes, and only one can be learned" if declared else ""
    if not declared and found:
        several = f"; it could be any of {_names(found)}"
    way_on = "; data.label_column=NAME names it" if several else ""
    raise DataError(f"{file}: needs a column 'label'; its columns: {_names(schema.names)}{several}{way_on}.")


def _column(schema: pa.Schema, usual: Sequence[str], declared: Sequence[str]) -> str | None:
    known = set(schema.names)
    found = next((name for name in usual if name in known), None)
    if found is None:
        others = [name for name in declared if name in known]
        found = others[0] if len(others) == 1 else None
    return found


def _images(schema: pa.Schema, name: str, file: str) -> str:
    """Returns the path of the leaf column with the bytes of the images."""
    import pyarrow as pa

    kind = inner = schema.field(name).type
    path = name
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner, path = kind.field("bytes").type, f"{name}.bytes"
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise DataError(
            f"{file}: column {shortened(name)!r} must be binary or a struct with binary 'bytes', not {_kind(kind)}."
        )
    return path


def _numeric(kind: pa.DataType, name: str, file: str) -> bool:
    """Returns whether labels are numbers rather than texts; a column of type null counts as numbers."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{file}: column {shortened(name)!r} must be integers or text, not {_kind(kind)}.")
    return False


def _features(schema: pa.Schema, file: str) -> dict[str, Any]:
    """Returns the description of each column in the metadata of Hugging Face datasets; empty if there is none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except RecursionError:
        raise DataError(f"{file}: the description of its columns is nested too deeply.") from None
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _is(feature: object, kind: str) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == kind


def _class_names(feature: object, file: str) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    if len(names) > MOST_CLASSES:
        raise DataError(f"{file}: declares {len(names):,} classes; {MOST_CLASSES:,} are allowed.")
    if long := next((name for name in names if len(name) > MOST_NAME), None):
        raise DataError(f"{file}: declares a class name of {len(long):,} characters; {MOST_NAME:,} are allowed.")
    return tuple(names)


def _names(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(name[:100] for name in names[:most])
    return (shown + (", ..." if len(names) > most else "")) or "none"


def _kind(kind: pa.DataType) -> str:
    """Returns the name of a type without its nested types, which could fill pages."""
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return f"{type(kind).__name__.removesuffix('Type').lower()} of {kind.num_fields} fields"
    return shortened(kind)
