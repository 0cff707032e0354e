"""SBOM: the bill of materials of the software that made a report, as CycloneDX 1.6 in JSON."""

from importlib import metadata
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from medkd import __version__
from medkd.extras import require
from medkd.results import Report


def sbom(report: Report) -> str:
    """List every installed package with its version and licence.

    Sorted by name, so that two of them can be compared line by line; it holds no path of the
    machine.
    """
    components = require("cyclonedx.model.component", extra="train")
    boms = require("cyclonedx.model.bom", extra="train")
    output = require("cyclonedx.output.json", extra="train")
    found = {_normal(d.metadata["Name"]): d for d in metadata.distributions() if d.metadata["Name"]}
    parts = [_component(found[name], name) for name in sorted(found)]
    bom = boms.Bom(
        components=parts,
        serial_number=uuid5(NAMESPACE_URL, report.model_dump_json() + str(sorted(found))),
    )
    bom.metadata.component = components.Component(
        name=report.study,
        type=components.ComponentType.MACHINE_LEARNING_MODEL,
        version=report.study_key,
        description=f"made with medkd {__version__}",
        bom_ref="study",
    )
    bom.register_dependency(bom.metadata.component, parts)
    text: str = output.JsonV1Dot6(bom).output_as_string(indent=1)
    return text


# Any: a backport of importlib.metadata that another package has loaded gives its own type
def _component(distribution: Any, name: str) -> Any:  # noqa: ANN401
    components = require("cyclonedx.model.component", extra="train")
    purls = require("packageurl", extra="train")
    return components.Component(
        name=name,
        version=distribution.version,
        type=components.ComponentType.LIBRARY,
        licenses=_licences(distribution),
        purl=purls.PackageURL("pypi", name=name, version=distribution.version),
        bom_ref=f"{name}=={distribution.version}",
    )


def _licences(distribution: Any) -> list[Any]:  # noqa: ANN401
    """Return what a package says of its licence: an SPDX expression, else its classifiers' names.

    The old field ``License`` may hold a whole text, of which the first line says which it is.
    """
    make = require("cyclonedx.contrib.license.factories", extra="train").LicenseFactory()
    said = distribution.metadata
    if expressions := said.get_all("License-Expression"):
        return [make.make_from_string(expressions[0])]
    named = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License :: ") and line.count(" :: ") > 1
    ]
    if named:
        return [make.make_with_name(name) for name in dict.fromkeys(named)]
    first = "".join(said.get_all("License") or []).strip().partition("\n")[0].strip()
    return [make.make_from_string(first)] if first else []


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
