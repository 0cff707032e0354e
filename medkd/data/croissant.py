"""Croissant: a card as JSON-LD that machines find and validate (MLCommons Croissant 1.0).

It says how the data lie and which fields they have; it holds none of their rows.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.config import expand
from medkd.data.cards import Card, card_of, path_of, refill
from medkd.data.quality.statistics import counts, statistics
from medkd.data.quality.survey import Survey
from medkd.errors import DataError
from medkd.study import Study, sha256, write_atomic

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
FORMATS = {".json": "application/json", ".csv": "text/csv", ".npz": "application/octet-stream"}


def update_card(study: Study, found: Survey) -> Path:
    """Write what the data show into their card, and its Croissant beside it.

    Returns:
        The card.

    Raises:
        DataError: the config names no card, or it is damaged.
    """
    path, card = path_of(study), card_of(study)
    if path is None or card is None:
        raise DataError(f"{study.config_path}: names no data card; write card: PATH")
    if found.config.data.source != "phantom":  # drawn anew, as many as the config says
        shown = statistics(found.cases, found.examined, found.config).model_dump(mode="json")
        card = refill(path, {**counts(card, found.cases), "statistics": shown})
    text = json.dumps(croissant(card, study), indent=2, ensure_ascii=False)
    write_atomic(croissant_path(path), text + "\n")
    return path


def croissant_path(card: Path) -> Path:
    """Return where the Croissant of a card lies: ``NAME.croissant.json``."""
    return card.with_name(f"{card.stem}.croissant.json")


def croissant(card: Card, study: Study) -> dict[str, Any]:
    """Return a card as Croissant, with the files and columns of the study's data."""
    objects = _objects(study)
    tables = [path for path in objects if path.suffix == ".csv"]
    records = zip(tables, ("cases", "table"), strict=False)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": card.name,
        "description": f"{card.modality}; {card.anatomy}. {card.reference_standard}",
        "license": card.licence,
        **_addressed(card),
        "creator": {"@type": "sc:Organization", "name": card.source},
        "citeAs": card.citation,
        "version": "1.0.0",
        "isLiveDataset": False,
        "rai:dataCollection": card.acquisition,
        "rai:dataAnnotationProtocol": card.annotators,
        "rai:dataBiases": list(card.known_biases),
        "rai:dataUseCases": card.intended_use,
        "rai:dataLimitations": card.forbidden_use,
        "rai:personalSensitiveInformation": card.consent,
        "distribution": [*objects.values()],
        "recordSet": [_records(path, name, objects[path]["@id"]) for path, name in records],
    }


def _addressed(card: Card) -> dict[str, str]:
    """Return the first address of the source and the last year of the citation, if it has them."""
    found = [word.strip("()<>,.;") for word in card.source.split() if "://" in word]
    years = re.findall(r"\b(?:19|20)\d\d\b", card.citation)
    dated = {"datePublished": max(years)} if years else {}
    return ({"url": found[0]} if found else {}) | dated


def _objects(study: Study) -> dict[Path, dict[str, Any]]:
    """Return the files that list or hold the cases, by their paths."""
    data = study.config.data
    if data.source == "phantom":
        return {}
    root = expand(data.root, key="data.root")
    paths = [expand(name, key="data", root=root) for name in (data.source, data.table) if name]
    ids = _ids([path.name for path in paths])
    return {path: _object(path, each) for path, each in zip(paths, ids, strict=True)}


def _ids(names: Sequence[str]) -> list[str]:
    """Return identifiers for names: without spaces and the like, and no two alike.

    Example:
        >>> _ids(["cases.csv", "age (years)", "age/years"])
        ['cases.csv', 'age_years', 'age_years_2']
    """
    found: list[str] = []
    for name in names:
        slug = re.sub(r"[^\w.-]+", "_", name).strip("_") or "unnamed"
        number = 1
        while (each := slug if number == 1 else f"{slug}_{number}") in found:
            number += 1
        found.append(each)
    return found


def _object(path: Path, file_id: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file_id,
        "name": path.name,
        "contentUrl": path.name,
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
        "sha256": sha256(path),
    }


def _records(path: Path, name: str, file_id: str) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        columns = [column for column in next(csv.reader(file)) if column]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": "One row a case.",
        "field": [
            _field(column, f"{name}/{each}", file_id)
            for column, each in zip(columns, _ids(columns), strict=True)
        ],
    }


def _field(column: str, field_id: str, file_id: str) -> Mapping[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": field_id,
        "name": column,
        "dataType": "sc:Text",
        "source": {"fileObject": {"@id": file_id}, "extract": {"column": column}},
    }
