"""A whole segmentation study, read top to bottom: from images on disk to a report.

    python pipelines/segmentation.py configs/hippocampus.yaml [--budget full] [--set key.path=value]

Every stage is written whole or not at all: run the same command again after a kill and it goes on
where it was; delete a stage's folder to redo it.
"""

from medkd.cli import Budget, ConfigPath, Overrides, conclude, open_study, run_pipeline
from medkd.data.check import check
from medkd.evaluate.run import evaluate
from medkd.export.release import export_all
from medkd.export.sizing import size_student
from medkd.results import Report
from medkd.study import Study
from medkd.track.session import tracked
from medkd.train.check_models import check_models
from medkd.train.run import distill, retrain, train_baseline, train_teacher
from medkd.train.soften import soften
from medkd.types import Role, Task


def run(study: Study) -> Report:
    """Run what is left of a study."""
    # nothing is written before models, losses and every case are known to be sound
    check_models(study.config, task=Task.SEGMENTATION)
    cohort = check(study)

    with study.hold(cohort.split, digests=cohort.part_digests, folds=cohort.folds(study.config)):
        # the widest student that answers in time, where the config gives it a latency budget
        study = size_student(study, cohort)
        with tracked(study) as runs:
            # the large, accurate model, and what it believes of every training case
            train_teacher(study, cohort, tracker=runs[Role.TEACHER])
            soften(study, cohort)

            # the same small network twice, with the same patches and the same number of steps
            train_baseline(study, cohort, tracker=runs[Role.BASELINE])
            distill(study, cohort, tracker=runs[Role.STUDENT])

            # folders that a device can run without torch, each compared with its network
            export_all(study, cohort, retrain=retrain)

            # the one place where the test split is opened
            report = evaluate(study, cohort, quiet=runs.quiet)
            runs.results(report)
    return report


def main(config: ConfigPath, overrides: Overrides = None, budget: Budget = "quick") -> None:
    """Distil, prove and release a segmentation model."""
    study = open_study(config, overrides, budget)
    conclude(study, run(study))


if __name__ == "__main__":
    run_pipeline(main)
