"""Reading: a case's image, and its reference standard on the image's grid."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medkd.config import Config
from medkd.data.dicom import is_dicom
from medkd.data.dicom.files import linked
from medkd.data.modalities import read_modalities
from medkd.data.reader import read_grid, read_label, suffix
from medkd.errors import DataError
from medkd.options import ReadingOptions, SeriesOptions
from medkd.types import Case, Volume

SERIES = "series_uid"  # the column by which ``medkd init`` tells series of one folder apart


def image_of(case: Case, config: Config) -> Volume:
    """Read a case's image, of all its modalities.

    Raises:
        DataError: as ``read_modalities``; or the case does not say which series is meant.
    """
    return read_modalities(case.images, options_of(case, config), case=case.id)


@contextmanager
def images_alone(cases: Sequence[Case], config: Config) -> Iterator[list[tuple[Path, ...]]]:
    """Yield the images of cases at paths that are read without their rows in the datalist.

    A DICOM series that shares its folder with others lies in one of its own meanwhile.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_alone(case, options_of(case, config))) for case in cases]


@contextmanager
def _alone(case: Case, options: ReadingOptions) -> Iterator[tuple[Path, ...]]:
    if options.series is None or len(case.images) > 1 or not case.image.is_dir():
        yield case.images
        return
    from medkd.data.dicom.series import read_series

    with linked(read_series(case.image, options).files) as folder:
        yield (folder,)


def label_of(case: Case, config: Config) -> Volume:
    """Read a case's label map as integers, ``[1, *space]``; of a DICOM SEG or RTSTRUCT as well.

    Raises:
        DataError: as ``read_label``, or as ``read_reference`` for SEG and RTSTRUCT.
    """
    return label_on_image(case, config.data.labels, options_of(case, config))


def label_on_image(case: Case, labels: Mapping[str, int], options: ReadingOptions) -> Volume:
    """Read a case's label map before there is a config; ``labels`` as of ``data.labels``.

    Raises:
        DataError: as ``label_of``.
    """
    assert isinstance(case.label, Path)
    if case.label.is_file() and suffix(case.label) in {"", ".dcm"} and is_dicom(case.label):
        from medkd.data.dicom.reference import is_reference, read_reference

        if is_reference(case.label):
            grid = read_grid(case.image, options)
            return read_reference(case.label, grid, labels, options)
    return read_label(case.label, options)


def options_of(case: Case, config: Config | None) -> ReadingOptions:
    """Return how a case is read: with the series that its row in the datalist names.

    Before there is a config, that is the column of ``medkd init``.

    Raises:
        DataError: the column of ``data.series`` is missing.
    """
    if config:
        options, column = config.preprocess.reading, config.data.series
    else:
        options, column = ReadingOptions(), SERIES if SERIES in case.attributes else None
    if column is None:
        return options
    if column not in case.attributes:
        raise DataError(
            f"case {case.id}: no column {column!r}, which data.series names; add it to the datalist"
        )
    uid = case.attributes[column]
    return options.model_copy(update={"series": SeriesOptions(uid=uid)}) if uid else options
