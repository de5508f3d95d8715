"""The commands, for tests that go over all of them."""

from tf_robust_transfer import (
    convert,
    evaluate,
    fitness,
    quickstart,
    report,
    theorem41,
    theorem42,
    train,
    visualize,
)
from tf_robust_transfer.config import TrainConfig

# Name -> (its main, the class of its options).
COMMANDS = {
    "train": (train.main, TrainConfig),
    "evaluate": (evaluate.main, evaluate.EvaluateConfig),
    "convert": (convert.main, convert.ConvertConfig),
    "fitness": (fitness.main, fitness.FitnessConfig),
    "visualize": (visualize.main, visualize.VisualizeConfig),
    "report": (report.main, report.ReportConfig),
    "theorem41": (theorem41.main, theorem41.Theorem41Config),
    "theorem42": (theorem42.main, theorem42.Theorem42Config),
    "quickstart": (quickstart.main, quickstart.QuickstartConfig),
}
