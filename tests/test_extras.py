import re

import pytest

from medkd.errors import MissingExtraError
from medkd.extras import installing, naming_extras, require


def test_what_is_installed_is_imported():
    assert require("json", extra="train").__name__ == "json"


def test_what_is_missing_names_its_extra_and_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r"no_such_library is not installed; pip install"):
        require("no_such_library", extra="openvino")


@pytest.mark.parametrize(("module", "extra"), [("monai.losses", "train"), ("pytest", "dev")])
def test_a_failed_import_of_an_extras_library_names_the_extra(module, extra):
    remedy = re.escape(installing(extra))
    with pytest.raises(MissingExtraError, match=remedy), naming_extras():
        raise ModuleNotFoundError(name=module)


def test_a_failed_import_of_anything_else_is_a_bug_and_stays_one():
    with pytest.raises(ModuleNotFoundError, match="nowhere"), naming_extras():
        raise ModuleNotFoundError("medkd.nowhere", name="medkd.nowhere")
