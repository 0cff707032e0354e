import numpy as np

from medkd.data.preprocess import preprocess
from medkd.data.reader import read_image
from medkd.device.guard import describe
from medkd.device.manifest import read_manifest
from medkd.export.guard import guard_of
from medkd.types import Role


def test_all_releases_of_a_study_carry_the_same_guard(released):
    study, cohort = released
    guards = {read_manifest(study.path(f"releases/{role}")).guard for role in Role}
    assert guards == {guard_of(study, cohort)}


def test_it_knows_the_images_of_training_and_its_limit_comes_from_validation(released):
    study, cohort = released
    guard = guard_of(study, cohort)

    def found(part):
        cases = cohort.of(getattr(cohort.split, part))
        images = [preprocess(read_image(case.image), study.config.preprocess) for case in cases]
        return [describe(*image) for image in images]

    values = np.array([[each[name] for name in guard.features] for each in found("train")])
    np.testing.assert_allclose(values.min(axis=0), [low for low, _ in guard.seen])
    distances = [guard.check(each).distance for each in found("validation")]
    assert guard.limit == max(distances)


def test_a_study_of_one_training_image_has_none(make_study):
    study, cohort = make_study(dims=2)
    one = cohort.split.__class__(cohort.split.train[:1], cohort.split.validation, ())
    assert guard_of(study, type(cohort)(**vars(cohort) | {"split": one})) is None
