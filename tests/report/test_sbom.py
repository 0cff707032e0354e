import json
from importlib import metadata

import pytest

from medkd.report.sbom import sbom


@pytest.fixture(scope="session")
def bill(segmentation):
    return json.loads(sbom(segmentation))


def test_it_fits_the_schema_of_cyclonedx(segmentation):
    pytest.importorskip("jsonschema", reason="cyclonedx-python-lib[json-validation]")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom(segmentation)) is None


def test_it_says_which_format_it_is_and_what_it_is_of(bill, segmentation):
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == segmentation.study


def test_every_installed_package_stands_with_its_version(bill):
    found = {part["name"]: part for part in bill["components"]}
    for name in ("numpy", "pydantic", "jinja2", "onnxruntime"):
        assert found[name]["version"] == metadata.version(name)
        assert found[name]["purl"] == f"pkg:pypi/{name}@{metadata.version(name)}"
    assert list(found) == sorted(found)
    (depends,) = [entry for entry in bill["dependencies"] if entry["ref"] == "study"]
    assert len(depends["dependsOn"]) == len(found)


def test_licences_are_those_that_the_packages_state(bill):
    found = {part["name"]: part.get("licenses") for part in bill["components"]}
    assert found["pydantic"] == [{"license": {"id": "MIT"}}]
    assert sum(map(bool, found.values())) > 0.9 * len(found)


def test_it_names_no_path_of_the_machine(bill):
    assert "site-packages" not in json.dumps(bill)
