"""The class that a user wants explained, among those of a model."""

from __future__ import annotations

from kcv.errors import UsageError, nearest
from kcv.inference.classifier import Classifier


def class_position(model: Classifier, class_name: str | None) -> int | None:
    """Returns the position of a class in the model's logits; None for None.

    Raises:
        UsageError: the model has no such class.
    """
    if class_name is None:
        return None
    names = model.class_names
    if class_name not in names:
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        allowed = ", ".join(names[:20]) + more
        raise UsageError(f"--class_name: no class {class_name!r}.{nearest(class_name, names)} The classes: {allowed}.")
    return names.index(class_name)
