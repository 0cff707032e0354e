"""Structures: those that label maps hold, by the names that the data set gives their values."""

from collections.abc import Mapping
from dataclasses import replace

from medkd.data.quality.examine import Examined
from medkd.data.start.layout import Layout
from medkd.errors import DataError
from medkd.types import Task


def held(layout: Layout, examined: Mapping[str, Examined]) -> Layout:
    """Return a layout whose labels are what its label maps hold.

    What is declared and held by none is left out, what is held and not declared gets a name.
    Classes, and channels of a structure each, are as they are.

    Raises:
        DataError: no label map holds anything.
    """
    is_channels = layout.overlapping and not layout.includes
    if layout.task is Task.CLASSIFICATION or is_channels:
        return layout
    values = {value for found in examined.values() for value in found.voxels}
    if not values:
        return layout  # none could be read, and the fingerprint says why
    values -= {0, layout.ignore}
    if not values:
        raise DataError("no label map holds anything but 0; a study needs a structure to learn")
    if not layout.labels:
        names = {"foreground" if len(values) == 1 else f"structure_{v}": v for v in sorted(values)}
        return replace(layout, labels=names).noting("TODO: give the structures their names")
    return _undeclared(_absent(layout, values), values)


def _absent(layout: Layout, values: set[int]) -> Layout:
    absent = [
        name
        for name, value in layout.labels.items()
        if values.isdisjoint({value, *(layout.labels[n] for n in layout.includes.get(name, ()))})
    ]
    if not absent:
        return layout
    includes = {
        name: tuple(within for within in several if within not in absent)
        for name, several in layout.includes.items()
        if name not in absent
    }
    return replace(
        layout,
        labels={name: value for name, value in layout.labels.items() if name not in absent},
        includes={name: several for name, several in includes.items() if several},
    ).noting(f"no label map holds {', '.join(absent)}: left out")


def _undeclared(layout: Layout, values: set[int]) -> Layout:
    unnamed = {
        f"label_{value}" if f"label_{value}" not in layout.labels else f"unnamed_{value}": value
        for value in sorted(values - {*layout.labels.values()})
    }
    if not unnamed:
        return layout
    labels = dict(sorted({**layout.labels, **unnamed}.items(), key=lambda item: item[1]))
    return replace(layout, labels=labels).noting(
        f"TODO: label maps hold {', '.join(unnamed)}, of which the data set says nothing: name them"
    )
