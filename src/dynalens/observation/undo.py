"""Put back one dictionary, list, set, object or class as it was."""

import operator
from collections import OrderedDict, deque
from collections.abc import Iterable
from types import CellType, MemberDescriptorType
from typing import Any

EMPTY = object()
"""Stands for a missing value."""


def _identical(entries: Iterable[Any], earlier_entries: list[Any]) -> bool:
    return all(map(operator.is_, entries, earlier_entries))


def put_back_dict(value: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Put back these entries of a dictionary."""
    # The methods of the plain types: those of a subclass may do more. An OrderedDict keeps an order of its own.
    kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict
    same_size = len(value) == len(keys)
    if same_size and _identical(dict.values(value), values) and _identical(kind.keys(value), keys):
        return
    kind.clear(value)
    for key, content in zip(keys, values, strict=True):
        kind.__setitem__(value, key, content)


def put_back_entry(value: dict[str, Any], key: str, content: Any) -> None:
    """Put back one entry of a dictionary. EMPTY: the entry is removed."""
    if value.get(key, EMPTY) is content:
        return
    if content is EMPTY:
        del value[key]
    else:
        value[key] = content


def put_back_sequence(value: Any, entries: list[Any]) -> None:
    """Put back these entries of a list or deque."""
    kind: Any = deque if isinstance(value, deque) else list
    if len(value) != len(entries) or not _identical(value, entries):
        kind.clear(value)
        kind.extend(value, entries)


def put_back_set(value: set[Any], entries: list[Any]) -> None:
    """Put back these entries of a set."""
    if len(value) != len(entries) or not all(entry in value for entry in entries):
        set.clear(value)
        set.update(value, entries)


def put_back_slots(value: Any, slots: list[tuple[MemberDescriptorType, Any]]) -> None:
    """Put back what an object has in these slots."""
    for slot, content in slots:
        if slot_value(slot, value) is content:
            continue
        if content is EMPTY:
            slot.__delete__(value)
        else:
            slot.__set__(value, content)  # also of a frozen dataclass


def put_back_cells(cells: list[tuple[CellType, Any]]) -> None:
    """Put back what a function encloses."""
    for cell, content in cells:
        if enclosed(cell) is not content and content is not EMPTY:
            cell.cell_contents = content


def enclosed(cell: CellType) -> Any:
    """Return what a function encloses in a cell; EMPTY if it is not assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def put_back_class(cls: type, attributes: dict[str, Any]) -> None:
    """Put back these attributes of a class."""
    current_attributes = {name: content for name, content in vars(cls).items() if is_data(name, content)}
    for name in current_attributes.keys() - attributes.keys():
        type.__delattr__(cls, name)
    for name, content in attributes.items():
        if current_attributes.get(name, EMPTY) is not content:
            type.__setattr__(cls, name, content)


def is_data(name: str, value: Any) -> bool:
    """Return whether an attribute of a class is neither a method nor another descriptor."""
    return not name.startswith("__") and not callable(value) and not hasattr(type(value), "__get__")


def slots_of(cls: type) -> list[MemberDescriptorType]:
    """Return the slots of the objects of a class."""
    slots = [vars(base).values() for base in cls.__mro__ if "__slots__" in vars(base)]
    return [
        attribute for attributes in slots for attribute in attributes if isinstance(attribute, MemberDescriptorType)
    ]


def slot_value(slot: MemberDescriptorType, value: Any) -> Any:
    """Return what an object has in a slot; EMPTY if it has nothing."""
    try:
        return slot.__get__(value)
    except AttributeError:
        return EMPTY
