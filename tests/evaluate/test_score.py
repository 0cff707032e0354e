import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from medkd.data import nifti
from medkd.data.labels import class_indices, truth_of
from medkd.data.reader import read_label
from medkd.data.reading import label_of
from medkd.device.predictor import Prediction
from medkd.evaluate.score import pooled, score_classification, score_segmentation
from medkd.metrics.calibration import CalibrationBins
from medkd.report.wording import less_is_better


def in_turn(probabilities, *, values=None):
    """Return a model that gives its answers in turn, whatever the case."""
    waiting = iter(probabilities)

    def answer(case) -> Prediction:
        del case
        p = next(waiting)
        mask = None if values is None else np.asarray(values)[p.argmax(axis=0)]
        return Prediction(mask=mask, probabilities=p)

    return answer


def believed(label, *, classes, share=1.0):
    """Return probabilities: ``share`` for the class of ``label``, the rest for the others."""
    index = np.arange(classes).reshape(-1, *[1] * label.ndim)
    return np.where(label == index, share, (1 - share) / (classes - 1))


def of_ball_alone(case, folder):
    """Return a case whose label does not cover the core."""
    label, path = read_label(case.label), folder / case.label.name
    nifti.write(path, label.array[0] * (label.array[0] == 1), affine=label.affine)
    return replace(case, label=path, annotated=("ball",))


@pytest.fixture(scope="module")
def segmented(make_study):
    """Config, test cases and their labels as class indices."""
    study, cohort = make_study()
    cases = cohort.of(cohort.split.test)
    labels = [class_indices(read_label(case.label).array[0], study.config) for case in cases]
    return study.config, cases, labels


@pytest.fixture
def score(segmented):
    config, cases, _ = segmented

    def score(answers):
        answer = in_turn(answers, values=config.label_values)
        return score_segmentation(answer, cases, config, salt=b"salt", name="student")

    return score


class TestSegmentation:
    def test_the_reference_itself_scores_best(self, score, segmented):
        scores = score([believed(label, classes=3) for label in segmented[2]])
        values = {name: figure.value for name, figure in scores.headline.items()}
        best = {"dice": 1, "nsd": 1}
        assert values == pytest.approx(dict.fromkeys(values, 0) | best)
        assert scores.per_class["dice/core"].value == 1
        assert scores.failures == {"misses": 0, "false_alarms": 0, "failures": 0}

    def test_no_figure_calls_a_worse_answer_better(self, score, segmented):
        labels = segmented[2]
        best, worse = (
            score([believed(label, classes=3) for label in answers])
            for answers in (labels, [np.roll(label, 2, axis=0) for label in labels])
        )
        for name, figure in (best.headline | best.per_class).items():
            gain = figure.value - (worse.headline | worse.per_class)[name].value
            assert (-gain if less_is_better(name) else gain) > 0, name

    def test_near_boundaries_errors_weigh_more_than_in_the_whole_image(self, score, segmented):
        labels = segmented[2]
        shifted = [np.roll(label, 1, axis=0) for label in labels]
        scores = score([believed(label, classes=3) for label in shifted])
        whole, near = (scores.headline[name].value for name in ("ece", "boundary_ece"))
        wrong = np.mean([(a != b).mean() for a, b in zip(shifted, labels, strict=True)])
        assert near > 1.5 * whole == pytest.approx(1.5 * wrong)

    def test_volumes_are_compared_structure_by_structure(self, score, segmented):
        labels = segmented[2]
        empty = np.zeros_like(labels[0])
        scores = score([believed(labels[0], classes=3), believed(empty, classes=3)])
        ball = [float((label == 1).sum()) / 1000 for label in labels]
        assert scores.cases[0].volumes_ml["ball"] == pytest.approx((ball[0], ball[0]))
        assert scores.cases[1].volumes_ml["ball"] == pytest.approx((0, ball[1]))
        found = scores.agreement["ball"]
        assert (found.bias, found.cases) == (pytest.approx(-ball[1] / 2), 2)

    def test_lesions_are_counted_over_all_cases(self, segmented):
        config, cases, labels = segmented
        counted = config.evaluate.model_copy(update={"lesions": ("core",)})
        lesions = config.model_copy(update={"evaluate": counted})
        halves = [labels[0], np.zeros_like(labels[1])]
        answer = in_turn([believed(h, classes=3) for h in halves], values=config.label_values)
        scores = score_segmentation(answer, cases, lesions, salt=b"salt", name="student")
        assert scores.cases[0].lesions == {"core": (1, 1, 1, 1)}
        assert scores.cases[1].lesions == {"core": (1, 0, 0, 0)}
        assert scores.per_class["lesion_sensitivity/core"].value == 0.5
        assert scores.per_class["lesion_ppv/core"].value == 1

    def test_a_structure_is_scored_on_the_cases_whose_label_covers_it(self, segmented, tmp_path):
        config, cases, labels = segmented
        drawn = config.evaluate.model_copy(update={"lesions": ("core",)})
        config = config.model_copy(update={"evaluate": drawn})
        cases = [of_ball_alone(cases[0], tmp_path), cases[1]]
        wrong = np.where(labels[0] == 1, 1, 2)  # core everywhere else: nobody can say
        answer = in_turn(
            [believed(wrong, classes=3), believed(np.zeros_like(labels[1]), classes=3)],
            values=config.label_values,
        )
        scores = score_segmentation(answer, cases, config, salt=b"salt", name="student")
        assert scores.per_class["dice/ball"].value == 0.5
        assert (scores.per_class["dice/core"].value, scores.per_class["dice/core"].cases) == (0, 1)
        assert scores.headline["dice"].value == 0.25  # over structures: 1 of 2 balls, 0 of 1 core
        assert "dice/core" not in scores.cases[0].figures
        assert (scores.failures["misses"], scores.failures["false_alarms"]) == (2, 0)
        assert scores.per_class["lesion_sensitivity/core"].cases == 1
        assert scores.agreement.keys() == {"ball"}
        assert scores.measured("dice/core").tolist() == [1]

    def test_calibration_sums_what_a_label_does_not_tell_apart(self, segmented, tmp_path):
        config, cases, labels = segmented
        cases = [of_ball_alone(case, tmp_path) for case in cases]
        told = [np.where(label == 1, 1, 0) for label in labels]
        sure, unsure = np.array([0.1, 0.8, 0.1]), np.array([0.55, 0.1, 0.35])
        p = [np.moveaxis(np.where((t == 1)[..., None], sure, unsure), -1, 0) for t in told]
        answer = in_turn(p, values=config.label_values)
        scores = score_segmentation(answer, cases, config, salt=b"salt", name="student")
        merged = [np.stack([x[0] + x[2], x[1]]) for x in p]
        bins = CalibrationBins()
        for x, t in zip(merged, told, strict=True):
            bins.update(x, t)
        for figure in ("ece", "brier", "static_ece"):
            assert scores.headline[figure].value == pytest.approx(getattr(bins, figure))

    def test_an_empty_answer_misses_every_structure(self, score, segmented):
        labels = segmented[2]
        scores = score([believed(np.zeros_like(label), classes=3) for label in labels])
        assert scores.headline["dice"].value == 0
        assert scores.headline["hd95_mm"].value == pytest.approx(math.hypot(16, 16, 16), rel=0.1)
        assert scores.failures == {"misses": 2 * len(labels), "false_alarms": 0, "failures": 2}
        assert scores.cases[0].misses == ("ball", "core")

    def test_dice_equals_its_definition_structure_by_structure(self, score, segmented):
        labels = segmented[2]
        moved = [np.roll(label, 2, axis=0) for label in labels]
        scores = score([believed(label, classes=3) for label in moved])
        for case, answer, label in zip(scores.cases, moved, labels, strict=True):
            for index, name in ((1, "ball"), (2, "core")):
                a, b = answer == index, label == index
                expected = 2 * (a & b).sum() / (a.sum() + b.sum())
                assert case.figures[f"dice/{name}"] == pytest.approx(expected)
            both = case.figures["dice/ball"], case.figures["dice/core"]
            assert case.figures["dice"] == pytest.approx(np.mean(both))

    def test_doubt_that_is_always_right_is_an_error_of_calibration(self, score, segmented):
        scores = score([believed(label, classes=3, share=0.8) for label in segmented[2]])
        assert scores.headline["dice"].value == 1
        assert scores.headline["ece"].value == pytest.approx(0.2)
        assert scores.headline["brier"].value == pytest.approx(0.2**2 + 2 * 0.1**2)
        assert scores.headline["nll"].value == pytest.approx(-math.log(0.8))
        assert scores.reliability.confidence == pytest.approx((0.8,))
        assert scores.reliability.accuracy == (1.0,)

    def test_every_figure_states_what_it_holds_and_names_nobody(self, score, segmented):
        _, cases, labels = segmented
        scores = score([believed(label, classes=3) for label in labels])
        for figure in (*scores.headline.values(), *scores.per_class.values()):
            assert (figure.cases, figure.patients) == (2, 1)
        said = {case.case for case in scores.cases} | {case.patient for case in scores.cases}
        assert not said & {name for case in cases for name in (case.id, case.patient)}


@pytest.fixture(scope="module")
def classified(make_study):
    """Config and validation cases; each case several times, so that rates can vary."""
    study, cohort = make_study(dims=2, task="classification")
    return study.config, 10 * cohort.of(cohort.split.validation)


class TestClassification:
    @pytest.fixture
    def scores(self, classified):
        config, cases = classified
        rng = np.random.default_rng(0)
        labels = np.array([case.label for case in cases])
        p = softmax(1.5 * rng.normal(size=(len(cases), 2)) + np.eye(2)[labels], axis=1)
        answer = in_turn([*p, *p])
        options = {"validation": cases, "salt": b"salt", "name": "student"}
        return score_classification(answer, cases, config, **options), p, labels

    def test_equals_scikit_learn(self, scores):
        found, p, labels = scores
        headline = {name: figure.value for name, figure in found.headline.items()}
        assert headline["auroc"] == pytest.approx(roc_auc_score(labels, p[:, 1]))
        assert headline["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(labels, p.argmax(axis=1))
        )
        assert headline["nll"] == pytest.approx(-np.log(p[range(len(p)), labels]).mean())
        expected = confusion_matrix(labels, p.argmax(axis=1), labels=range(p.shape[1]))
        assert found.confusion == tuple(map(tuple, expected.tolist()))

    def test_the_operating_point_keeps_its_specificity_where_it_was_chosen(self, scores):
        found, *_ = scores
        assert found.per_class["specificity/large"].value >= 0.95
        assert found.headline["sensitivity"] == found.per_class["sensitivity/large"]

    def test_wrong_answers_are_counted(self, scores):
        found, p, labels = scores
        wrong = int((p.argmax(axis=1) != labels).sum())
        assert found.failures == {"failures": wrong}
        assert sum(case.figures["correct"] for case in found.cases) == len(labels) - wrong


def test_voxels_that_nobody_has_judged_are_not_scored(segmented, tmp_path):
    config, cases, labels = segmented
    data = config.data.model_copy(update={"ignore": 9})
    config = config.model_copy(update={"data": data})
    unjudged, marked = [], []
    for number, (case, label) in enumerate(zip(cases, labels, strict=True)):
        there = np.zeros(label.shape, bool)
        there[:6] = True
        volume = read_label(case.label)
        values = np.where(there, 9, volume.array[0]).astype(np.uint8)
        path = tmp_path / f"{number}.nii.gz"
        nifti.write(path, values, affine=volume.affine)
        unjudged.append(there)
        marked.append(replace(case, label=path))
    rng = np.random.default_rng(0)
    first = [softmax(rng.normal(size=(3, *label.shape)), axis=0) for label in labels]
    other = [np.where(u, p[[1, 2, 0]], p) for u, p in zip(unjudged, first, strict=True)]
    scores = [
        score_segmentation(
            in_turn(answers, values=config.label_values), marked, config, salt=b"", name="student"
        )
        for answers in (first, other)
    ]
    assert scores[0].headline == scores[1].headline
    assert scores[0].per_class == scores[1].per_class


def test_the_ece_of_drawn_cases_is_that_of_their_pooled_voxels():
    rng = np.random.default_rng(0)
    bins, together = [], CalibrationBins()
    for _ in range(4):
        case = CalibrationBins()
        case.update(softmax(rng.normal(size=(3, 50)), axis=0), rng.integers(0, 3, 50))
        bins.append(case)
    for index in (0, 2, 2):
        together = together + bins[index]
    assert pooled(bins, "ece")(np.array([0, 2, 2])) == pytest.approx(together.ece)


@pytest.fixture(scope="module")
def overlapping(make_study):
    """Config, test cases and their labels of structures that may overlap."""
    study, cohort = make_study("evaluate.lesions=[core]", overlapping=True)
    cases, config = cohort.of(cohort.split.test), study.config
    return config, cases, [truth_of(label_of(case, config), case, config) for case in cases]


class TestOverlapping:
    """Structures that may overlap are scored each by its own mask."""

    def scored(self, overlapping, probabilities):
        config, cases, _ = overlapping
        said = iter(probabilities)

        def answer(case):
            del case
            p = next(said)
            return Prediction(mask=(p >= 0.5).astype(np.uint8), probabilities=p)

        return score_segmentation(answer, cases, config, salt=b"salt", name="student")

    def test_the_reference_itself_scores_best(self, overlapping):
        scores = self.scored(overlapping, [label.astype(float) for label in overlapping[2]])
        values = {name: figure.value for name, figure in scores.headline.items()}
        assert values["dice"] == values["nsd"] == 1
        assert values["hd95_mm"] == values["ece"] == values["brier"] == values["boundary_ece"] == 0
        assert {"dice/ball", "dice/core", "lesion_ppv/core"} <= scores.per_class.keys()
        assert scores.failures == {"misses": 0, "false_alarms": 0, "failures": 0}

    def test_a_structure_is_judged_whatever_is_said_of_the_other(self, overlapping):
        said = [np.stack([label[0], 0 * label[1]]).astype(float) for label in overlapping[2]]
        scores = self.scored(overlapping, said)
        assert scores.per_class["dice/ball"].value == 1
        assert scores.per_class["dice/core"].value == 0
        assert all(case.misses == ("core",) for case in scores.cases)
        for case, label in zip(scores.cases, overlapping[2], strict=True):
            assert case.volumes_ml["ball"] == (label[0].sum() / 1000,) * 2
            assert case.volumes_ml["core"] == (0, label[1].sum() / 1000)

    def test_calibration_counts_a_question_for_each_voxel_and_structure(self, overlapping):
        said = [np.full(label.shape, 0.25) for label in overlapping[2]]
        scores = self.scored(overlapping, said)
        share = np.concatenate([label.ravel() for label in overlapping[2]]).mean()
        assert scores.headline["ece"].value == pytest.approx(abs((1 - share) - 0.75))
        assert scores.reliability.count == (sum(label.size for label in overlapping[2]),)

    def test_a_structure_that_a_label_does_not_cover_is_not_judged_there(self, overlapping):
        config, (first, *others), labels = overlapping
        part = (config, [replace(first, annotated=("ball",)), *others], labels)
        said = [np.stack([label[0], 1 - label[1]]).astype(float) for label in labels]
        said[1:] = [label.astype(float) for label in labels[1:]]
        scores = self.scored(part, said)
        assert "dice/core" not in scores.cases[0].figures
        assert scores.per_class["dice/core"].value == scores.headline["dice"].value == 1
        assert scores.headline["ece"].value == 0
        assert scores.reliability.count == (labels[0][0].size + sum(x.size for x in labels[1:]),)


@pytest.fixture(scope="module")
def findings(make_study):
    """Config and cases that have findings, of which as many train as others do elsewhere."""
    study, cohort = make_study(dims=2, task="classification", overlapping=True)
    return study.config, list(cohort.cases.values())


def scored_findings(findings, probabilities, *, cases=None, known=None):
    config, given = findings
    answers = in_turn([*probabilities, *(probabilities if known is None else known)])
    cases = given if cases is None else cases
    return score_classification(
        answers, cases, config, validation=given, salt=b"salt", name="student"
    )


class TestFindings:
    """An image may have several findings, or none: each is scored by itself."""

    @pytest.fixture
    def truth(self, findings):
        config, cases = findings
        return np.array([[name in case.label for name in config.classes] for case in cases])

    def test_the_reference_itself_scores_best(self, findings, truth):
        scores = scored_findings(findings, truth.astype(np.float32))
        values = {name: figure.value for name, figure in scores.headline.items()}
        best = {"auroc": 1, "average_precision": 1, "sensitivity": 1}
        assert values == pytest.approx(dict.fromkeys(values, 0) | best, abs=1e-6)
        assert scores.failures == {"misses": 0, "false_alarms": 0, "failures": 0}
        assert all(case.figures["probability_of_truth"] == 1 for case in scores.cases)
        assert {"auroc/large", "ece/marked", "specificity/large"} <= scores.per_class.keys()
        config, _ = findings
        measured = scores.headline.keys() | scores.per_class.keys()
        assert measured == config.figures

    def test_no_figure_calls_a_worse_answer_better(self, findings, truth):
        good, bad = (truth.astype(np.float32) * s + (1 - s) / 2 for s in (0.8, -0.2))
        best, worse = (scored_findings(findings, p) for p in (good, bad))
        for name, figure in (best.headline | best.per_class).items():
            gain = figure.value - (worse.headline | worse.per_class)[name].value
            assert (-gain if less_is_better(name) else gain) >= 0, name

    def test_each_equals_scikit_learn_and_the_mean_is_over_findings(self, findings, truth):
        p = np.random.default_rng(0).random(truth.shape).astype(np.float32)
        scores = scored_findings(findings, p)
        each = [roc_auc_score(*pair) for pair in zip(truth.T, p.T, strict=True)]
        for name, value in zip(findings[0].classes, each, strict=True):
            assert scores.per_class[f"auroc/{name}"].value == pytest.approx(value)
        assert scores.headline["auroc"].value == pytest.approx(np.mean(each))

    def test_a_finding_is_found_at_the_operating_point_of_the_validation_split(
        self, findings, truth
    ):
        low, high = np.float32([0.1, 0.3])
        known = np.where(truth, high, low)
        said = np.where(truth, np.float32(0.2), np.float32(0.05))
        scores = scored_findings(findings, said, known=known)
        assert scores.headline["sensitivity"].value == 1  # though no probability is a half
        missed = scored_findings(findings, said / 3, known=known)
        assert missed.failures["misses"] == truth.sum()
        assert missed.per_class["sensitivity/large"].value == 0
        assert missed.cases[1].misses == tuple(findings[1][1].label)
        flipped = scored_findings(findings, 1 - said, known=known)
        assert flipped.failures["false_alarms"] == (~truth).sum()

    def test_what_was_not_judged_is_not_scored(self, findings, truth):
        _, (first, second, *others) = findings
        cases = [replace(first, label=(), annotated=("large",)), second, *others]
        said = truth.astype(np.float32)
        said[0] = [0, 1]
        scores = scored_findings(findings, said, cases=cases, known=truth.astype(np.float32))
        assert scores.failures == {"misses": 0, "false_alarms": 0, "failures": 0}
        assert scores.headline["auroc"].value == 1
        assert scores.headline["brier"].value == 0
        assert scores.per_class["auroc/marked"].cases == len(cases) - 1
        assert scores.measured("ece/marked").tolist() == list(range(1, len(cases)))
        assert scores.reliability.count == (truth.size - 1,)
