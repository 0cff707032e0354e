"""Reading: a case's image, and its reference standard on the image's grid."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medkd.config import Config
from medkd.data.dicom import is_dicom
from medkd.data.dicom.files import linked
from medkd.data.labels import in_channels
from medkd.data.modalities import read_modalities
from medkd.data.reader import NIFTI, PICTURES, read_grid, read_label, suffix
from medkd.data.turned import turned_onto
from medkd.errors import DataError
from medkd.options import ReadingOptions, SeriesOptions
from medkd.types import Case, Volume

SERIES = "series_uid"  # the column by which ``medkd init`` tells series of one folder apart


def image_of(case: Case, config: Config) -> Volume:
    """Read a case's image, of all its modalities.

    Raises:
        DataError: as ``read_modalities``; or the case does not say which series is meant.
    """
    names = config.preprocess.modalities
    return read_modalities(case.images, options_of(case, config), case=case.id, names=names)


def from_small_to_large(cases: Sequence[Case], count: int) -> list[Case]:
    """Return so many cases, or all, spread evenly over what their images take on disk."""

    def bytes_of(case: Case) -> int:
        files = (path.iterdir() if path.is_dir() else [path] for path in case.images)
        return sum(file.stat().st_size for of_image in files for file in of_image)

    ordered = sorted(cases, key=bytes_of)
    places = {int((i + 0.5) / count * len(ordered)) for i in range(count)}
    return [ordered[place] for place in sorted(places)]


@contextmanager
def images_alone(cases: Sequence[Case], config: Config) -> Iterator[list[tuple[Path, ...]]]:
    """Yield the images of cases at paths that are read without their rows in the datalist.

    A DICOM series that shares its folder with others lies in one of its own meanwhile.
    """
    with ExitStack() as stack:

        def alone(case: Case) -> tuple[Path, ...]:
            options, names = options_of(case, config), config.preprocess.modalities
            kinds = [options.of(name) for name in names[: len(case.images)]] or [options]
            pairs = zip(case.images, kinds, strict=True)
            return tuple(stack.enter_context(_alone(*pair)) for pair in pairs)

        yield [alone(case) for case in cases]


@contextmanager
def _alone(path: Path, options: ReadingOptions) -> Iterator[Path]:
    if options.series is None or not path.is_dir():
        yield path
        return
    from medkd.data.dicom.series import read_series

    with linked(read_series(path, options).files) as folder:
        yield folder


def label_of(case: Case, config: Config) -> Volume:
    """Read a case's label map as integers, ``[1, *space]``; of a DICOM SEG or RTSTRUCT as well.

    Where structures may overlap it is ``[structures, *space]``, as ``in_channels`` gives it.

    Raises:
        DataError: as ``read_label``, or as ``read_reference`` for SEG and RTSTRUCT; or it does not
            hold the structures of the config.
    """
    data, names = config.data, config.preprocess.modalities
    options = options_of(case, config)
    label = label_on_image(
        case,
        data.labels,
        options.of(names[0]) if names else options,
        overlapping=data.overlapping,
    )
    if not data.overlapping:
        return label
    assert isinstance(case.label, Path)
    return in_channels(label, config, path=case.label)


def label_on_image(
    case: Case, labels: Mapping[str, int], options: ReadingOptions, *, overlapping: bool = False
) -> Volume:
    """Read a case's label map before there is a config; ``labels`` as of ``data.labels``.

    Its axes run as the image's, where it lies on the image's voxels at all.
    Where structures may overlap, the file's channels come as they are: one, or one a structure.

    Raises:
        DataError: as ``label_of``.
    """
    assert isinstance(case.label, Path)
    is_other = suffix(case.label) not in {*NIFTI, *PICTURES} and case.label.exists()
    if is_other and is_dicom(case.label):
        from medkd.data.dicom.reference import read_reference, reference_in

        if reference := reference_in(case.label):
            grid = read_grid(case.image, options)
            return read_reference(reference, grid, labels, options, overlapping=overlapping)
    label = read_label(case.label, options, several=overlapping)
    return turned_onto(label, read_grid(case.image, options)) if label.dims == 3 else label


def options_of(case: Case, config: Config | None) -> ReadingOptions:
    """Return how a case is read: with the series that its row in the datalist names.

    Before there is a config, that is the column of ``medkd init``.

    Raises:
        DataError: the column of ``data.series`` is missing.
    """
    if config:
        options, columns = config.preprocess.reading, config.series_columns
    else:
        options, columns = ReadingOptions(), {"": SERIES} if SERIES in case.attributes else {}
    named = {name: _named(case, column) for name, column in columns.items()}
    rules = {name: SeriesOptions(uid=uid) for name, uid in named.items() if uid}
    if "" in rules:
        return options.model_copy(update={"series": rules[""]})
    return options.model_copy(update={"series_of": options.series_of | rules})


def _named(case: Case, column: str) -> str:
    """Return the UID of the series that a case's row names; empty where it names none."""
    if column not in case.attributes:
        raise DataError(
            f"case {case.id}: no column {column!r}, which data.series names; add it to the datalist"
        )
    return case.attributes[column]
