"""Lists the networks, without building any unless their speed is measured, and downloads their weights."""

from __future__ import annotations

from typing import Annotated, Any

from kcv.common.parameters import AtLeast, OneOf, checked
from kcv.errors import UsageError


def _names() -> tuple[str, ...]:
    from kcv.models import registry

    return registry.names()


@checked
def models(
    *,
    model: Annotated[str, OneOf(_names)] | None = None,
    download: bool = False,
    measure: bool = False,
    image_size: Annotated[int, AtLeast(16)] | None = None,
) -> list[dict[str, Any]]:
    """List the networks that can be trained, and the locally available ImageNet weights.

    Args:
        model: only this network.
        download: first download its ImageNet weights, if they are not here, so that `model.name: auto` may choose it.
        measure: measure training and prediction on this machine, some seconds per network.
        image_size: measure: px; default: 32 for the custom CNN, 64 for the others.

    Returns:
        One row of plain values per network; measured ones have `measured` too.

    Raises:
        UsageError: `download` without `model`, an image size without `measure`, or one that is too small for a network.
        WeightsError: there are no weights to download, or they cannot be obtained.

    Example:
        $ kcv models
        $ kcv models --measure --image_size=96
    """
    from kcv.models import registry

    chosen = [network for network in registry.networks() if model in (None, network.name)]
    if image_size is not None and not measure:
        raise UsageError("models has no --image_size without --measure.")
    if download and model is None:
        raise UsageError("models has no --download without --model.")
    for network in chosen:
        if image_size is not None and image_size < network.min_image_size:
            raise UsageError(
                f"--image_size: {network.name} takes images of {network.min_image_size} px or more, not {image_size}."
            )
    if download:
        from kcv.models import imagenet

        for network in chosen:
            imagenet.fetch(network)
    rows = [network.row() for network in chosen]
    if measure:
        from kcv.benchmark import speed
        from kcv.common.progress import Progress

        with Progress(len(rows), "measuring", unit="networks") as progress:
            for row in rows:
                row["measured"] = speed.measure(row["name"], image_size)
                progress.advance()
    return rows
