"""GenEval's six tasks on things that the default model was trained on, scored without any download.

File layout and scoring rules are those of GenEval; detector and colour classifier are the project's own
checker, whose accuracy is reported beside every score.
"""

from pathlib import Path
from typing import Any

from openhart.errors import UserError
from openhart.evaluation.benchmarks.geneval import find_samples, geneval_result, score_samples
from openhart.evaluation.checker.accuracy import CHECKER_THRESHOLDS
from openhart.evaluation.checker.files import Checker
from openhart.evaluation.result import Result

TRUSTED = 0.95


def score_composition(
    folder: Path, checker: Checker, quiet: bool = False
) -> tuple[Result, list[dict[str, Any]]]:
    """Score a folder in GenEval's layout with the checker.

    Returns:
        the result, whose details contain the accuracy of the checker and the tasks in which it is below 95 %,
        and one row per image.

    Raises:
        UserError: a prompt names a thing that the checker was not trained on.
    """
    samples = find_samples(folder)
    known = set(checker.detector.classifier.things)
    asked = {clause["class"] for sample in samples for clause in sample.metadata["include"]}
    if unknown := sorted(asked - known):
        raise UserError(
            f"the checker was not trained on {', '.join(unknown[:5])}: train one on scenes with it"
        )
    rows = list(score_samples(samples, checker.detector, checker.colours, CHECKER_THRESHOLDS, quiet))
    result = geneval_result(rows, checker.detector, checker.colours, CHECKER_THRESHOLDS, name="composition")
    doubtful = [
        f"{tag} on {kind} scenes"
        for kind, tasks in checker.accuracy.items()
        for tag, shares in tasks.items()
        if shares["accuracy"] < TRUSTED
    ]
    details = {**result.details, "checker_accuracy": checker.accuracy, "checker_below_95_percent": doubtful}
    return Result(result.benchmark, result.figures, result.made_by, details), rows
