"""Flat views of parameters and slots, kept from step to step."""

from __future__ import annotations

import torch

from kcv.native.storage import FlatViews


def test_a_view_is_kept_and_shows_changes_in_place() -> None:
    views, slot = FlatViews(), torch.zeros(2, 3, 4, 5)
    view = views.of(slot, slot)
    slot.add_(1.0)
    assert views.of(slot, slot) is view
    assert view.eq(1.0).all()


def test_a_slot_takes_the_order_of_its_parameter() -> None:
    parameter = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    slot = torch.arange(120.0).reshape(2, 3, 4, 5)
    wanted = slot.clone()
    view = FlatViews().of(slot, parameter)
    assert slot.stride() == parameter.stride()
    assert torch.equal(slot, wanted)
    assert torch.equal(view, wanted.permute(0, 2, 3, 1).flatten())


def test_a_new_storage_and_a_new_order_are_noticed() -> None:
    views, slot = FlatViews(), torch.zeros(2, 3, 4, 5)
    old = views.of(slot, slot)
    slot.data = torch.ones(2, 3, 4, 5)
    assert views.of(slot, slot).eq(1.0).all()
    assert old.eq(0.0).all()
    turned = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    views.of(slot, turned)
    assert slot.stride() == turned.stride()
