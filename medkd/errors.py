"""The errors a user can meet; each says what is wrong, where, and what to do.

MedkdError
├── ConfigError      a key, value or name in the config or on the command line   exit 2
├── DataError        a file, case, label or grid                                 exit 3
├── TooLargeError    a DataError: a file that takes more memory than it may      exit 3
├── FindingsError    a DataError: what a check of all cases has found            exit 1
├── StudyError       a study folder that does not fit the config                 exit 2
├── MadeOtherwiseError  a StudyError: a stage made from something else          exit 2
├── TrainingError    training that cannot go on                                  exit 1
├── ReleaseError     a release folder that cannot be trusted or run              exit 3
└── MissingExtraError  an optional library that is not installed                 exit 2
"""

from collections.abc import Sequence


class MedkdError(Exception):
    """Base of every error medkd raises on purpose."""

    exit_code = 1


class ConfigError(MedkdError):
    """A key, value or name in the config or on the command line."""

    exit_code = 2


class DataError(MedkdError):
    """A file, case, label or grid that cannot be used.

    Attributes:
        private: what of the message may name a patient, but for the file it begins with: another
            path, or what a file or a table says.
    """

    exit_code = 3

    def __init__(self, message: str = "", *, private: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.private = tuple(private)

    @classmethod
    def of(cls, problems: Sequence[str]) -> "DataError":
        """Join all problems of one pass into one error."""
        head = f"{len(problems)} problems in the data:\n" if len(problems) > 1 else ""
        return cls(head + "\n".join(problems))


class TooLargeError(DataError):
    """A file that would take more memory than it may."""


class FindingsError(DataError):
    """What a check of all cases has found: nothing is trained before it is mended."""

    exit_code = 1


class StudyError(MedkdError):
    """A study folder that does not fit the config."""

    exit_code = 2


class MadeOtherwiseError(StudyError):
    """A finished stage that was made from something else; it is kept, with what tells of it."""


class TrainingError(MedkdError):
    """Training that cannot go on."""


class ReleaseError(MedkdError):
    """A release folder that cannot be trusted or run."""

    exit_code = 3


class MissingExtraError(MedkdError):
    """An optional library that is not installed."""

    exit_code = 2
