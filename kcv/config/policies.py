"""Policies of augmentation: a whole set of changes in one word.

A policy only gives values to other keys of `augment`, when the configuration is read: what a run stores names both, and
any key given beside the policy stays as given. No policy depends on the size of the images or mixes them.

`light` and `photos` hold what pretrained networks are usually fine-tuned with: random resized crops (Szegedy et al.
2015, arXiv 1409.4842), flips, small rotations and colour changes. The three automatic policies take the crop, flip and
erasing of torchvision's training recipe around RandAugment (Cubuk et al. 2019, arXiv 1909.13719), TrivialAugment
(Mueller and Hutter 2021, arXiv 2103.10158) or AugMix (Hendrycks et al. 2019, arXiv 1912.02781).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_CROPPED: Final = {"resized_crop": 0.35, "flip": "random"}

POLICIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    "light": {"resized_crop": 0.7, "flip": "random", "color_jitter": 0.1},
    "photos": {**_CROPPED, "rotation": 10.0, "color_jitter": 0.3, "hue": 0.02, "random_erasing": 0.1},
    "strong": {
        "resized_crop": 0.2,
        "flip": "random",
        "rotation": 20.0,
        "shear": 8.0,
        "perspective": 0.2,
        "color_jitter": 0.4,
        "hue": 0.05,
        "grayscale": 0.1,
        "blur": 0.2,
        "random_erasing": 0.25,
    },
    "randaugment": {**_CROPPED, "auto_augment": "randaugment", "random_erasing": 0.1},
    "trivialaugment": {**_CROPPED, "auto_augment": "trivialaugment", "random_erasing": 0.1},
    "augmix": {**_CROPPED, "auto_augment": "augmix", "random_erasing": 0.1},
}
"""The keys that each policy sets, and their values."""


def with_policy(values: Any) -> Any:
    """Returns the values of the section `augment` with those of its policy for the keys that are not given."""
    policy = values.get("policy") if isinstance(values, Mapping) else None
    return {**POLICIES[policy], **values} if isinstance(policy, str) and policy in POLICIES else values


def without_policy(values: Mapping[Any, Any], defaults: Mapping[str, Any]) -> dict[Any, Any]:
    """Returns a section `augment` of a file without its policy, and without all that only follows from that.

    A run's configuration names its policy and every key. For another policy to have an effect on it, the keys with
    the values of the first one must not count as given.

    Args:
        values: the section; unchanged unless it names a policy.
        defaults: the defaults of the section, by key.
    """
    policy = values.get("policy")
    if not isinstance(policy, str) or policy not in POLICIES:
        return dict(values)
    follows = {**defaults, **POLICIES[policy], "policy": policy}
    return {key: value for key, value in values.items() if key not in follows or follows[key] != value}
