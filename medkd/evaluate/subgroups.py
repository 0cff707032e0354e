"""Subgroups: whether a mean hides a group that is served worse."""

from collections.abc import Mapping, Sequence

import numpy as np

from medkd.config import Config
from medkd.data.annotated import covered_questions
from medkd.data.groups import UNKNOWN, band, bands, group_of
from medkd.data.labels import structure_masks, truth_of
from medkd.data.reading import label_of
from medkd.evaluate.score import Scores, Statistic
from medkd.metrics.statistics import bootstrap_difference, bootstrap_mean, bootstrap_statistic
from medkd.metrics.volume import volume_ml
from medkd.options import SubgroupOptions
from medkd.results import Interval, Subgroup
from medkd.types import Case, Role, Task


def subgroups(
    scores: Mapping[Role, Scores], cases: Sequence[Case], config: Config
) -> tuple[Subgroup, ...]:
    """Score the groups that the config names, each by itself."""
    return tuple(
        _subgroup(named.attribute, group, np.flatnonzero(groups == group), scores, config)
        for named in config.evaluate.subgroups
        for groups in [np.array(_groups(named, cases, config), dtype=object)]
        for group in _in_order(named, set(groups))
    )


def _subgroup(
    attribute: str, group: str, members: np.ndarray, scores: Mapping[Role, Scores], config: Config
) -> Subgroup:
    (any_role, *_) = scores.values()
    patients = [any_role.patients[index] for index in members]
    figure = "dice" if config.task is Task.SEGMENTATION else "auroc"
    found = Subgroup(
        attribute=attribute,
        group=group,
        cases=len(members),
        patients=len(set(patients)),
        figure=figure,
    )
    if found.patients < config.evaluate.least_in_group:
        return found
    by_role = {
        role: _interval(each, None, figure, members, patients, config)
        for role, each in scores.items()
    }
    difference = None
    if {Role.STUDENT, Role.TEACHER} <= scores.keys():
        student, teacher = scores[Role.STUDENT], scores[Role.TEACHER]
        difference = _interval(student, teacher, figure, members, patients, config)
    return found.model_copy(update={"by_role": by_role, "difference": difference})


def _interval(
    of: Scores,
    minus: Scores | None,
    figure: str,
    members: np.ndarray,
    patients: Sequence[str],
    config: Config,
) -> Interval:
    options = {"draws": config.evaluate.bootstrap, "seed": config.study.seed}
    if figure in of.values:
        values = of.values[figure][members]
        if minus is None:
            return bootstrap_mean(values, patients, **options)
        return bootstrap_difference(values, minus.values[figure][members], patients, **options)
    ours: Statistic = of.statistics[figure]
    theirs = minus.statistics[figure] if minus else None

    def statistic(indices: np.ndarray) -> float:
        chosen = members[indices]
        return ours(chosen) - theirs(chosen) if theirs else ours(chosen)

    return bootstrap_statistic(statistic, patients, **options)


def _groups(named: SubgroupOptions, cases: Sequence[Case], config: Config) -> list[str]:
    """Return the group of each case."""
    if named.structure is None:
        return [group_of(case, named) for case in cases]
    index = config.structures.index(named.structure)
    groups = []
    for case in cases:
        if not covered_questions(case, config)[index]:
            groups.append(UNKNOWN)
            continue
        label = label_of(case, config)
        mask = list(structure_masks(truth_of(label, case, config), config))[index]
        groups.append(band(volume_ml(mask, spacing_mm=label.spacing_mm), named.edges))
    return groups


def _in_order(named: SubgroupOptions, groups: set[str]) -> list[str]:
    """Sort bands by their numbers and other groups by name, what is unknown last."""
    order = bands(named.edges) if named.edges else sorted(groups - {UNKNOWN})
    return [group for group in (*order, UNKNOWN) if group in groups]
