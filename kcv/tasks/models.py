"""Listing the networks, without building any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kcv.models.network import Network


def models() -> Sequence[Network]:
    """List the networks that can be trained, and the locally available ImageNet weights.

    Example:
        $ kcv models
    """
    from kcv.models import registry

    return registry.networks()
