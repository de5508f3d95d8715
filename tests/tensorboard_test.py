"""What TensorBoard's own readers find in a run folder."""

import io
import json

import numpy as np
import pytest
from matplotlib import image as mpimage
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from tf_robust_transfer.command_line import parse
from tf_robust_transfer.config import TrainConfig
from tf_robust_transfer.runs import run_training
from tf_robust_transfer.runs.events import Events

QUICK = (
    "--train_fraction=0.45",  # nine steps an epoch
    "--epochs=2",
    "--eps=0.1",
    "--attacks=fgsm",
    "--max_examples=60",
    "--watch_examples=20",
    "--watch_attack=fgsm",
    "--batch_size=64",
    "--log_every=4",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A natural network, and MixACM's student that has it as its teacher."""
    parent = tmp_path_factory.mktemp("runs")
    for name, arguments in {
        "natural": ["--learning_rate=0.05"],
        "student": [
            "--method=mixacm",
            f"--teacher={parent}/natural",
            "--blocks=block1",
            "--learning_rate=0.002",
            "--seed=3",
        ],
    }.items():
        run_training(parse(TrainConfig, [*QUICK, *arguments, f"--run_dir={parent}/{name}"]))
    return parent


def accumulator(run):
    return EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()


def by_plugin(read):
    """Plug-in -> tag -> events."""
    found = {}
    for tag in read.Tags()["tensors"]:
        plugin = read.SummaryMetadata(tag).plugin_data.plugin_name
        found.setdefault(plugin, {})[tag] = read.Tensors(tag)
    return found


def test_scalars_by_step_and_by_epoch_each_with_its_description(runs):
    read = accumulator(runs / "student")
    scalars = by_plugin(read)["scalars"]
    steps = {tag: [event.step for event in events] for tag, events in scalars.items()}
    assert steps["steps/loss"] == steps["steps/acm"] == [4, 8, 12, 16]
    epochs = ("loss", "accuracy", "acm", "kld")
    watched = ("learning_rate", "images_per_second", "test_clean_accuracy", "test_robust_accuracy")
    for tag in (*(f"epochs/{name}" for name in (*epochs, *watched)), "diagnostics/cosine"):
        assert steps[tag] == [9, 18], tag
    for tag in scalars:
        description = read.SummaryMetadata(tag).summary_description
        assert description.endswith(".") and len(description) > 15, tag
    results = json.loads((runs / "student/results.json").read_text())
    for attack, accuracy in results["accuracy"].items():
        (event,) = scalars[f"accuracy/{attack}"]
        assert event.step == 18
        assert event.tensor_proto.float_val[0] == pytest.approx(accuracy, rel=1e-6)


def test_one_run_a_folder(runs):
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(runs)).Reload()
    assert set(multiplexer.Runs()) == {"natural/tensorboard", "student/tensorboard"}


def test_pictures_of_image_teacher_and_student_and_of_channel_maps(runs):
    found = by_plugin(accumulator(runs / "student"))["images"]
    assert set(found) == {"input_gradients", "channel_maps"}
    for events in found.values():
        assert [event.step for event in events] == [9, 18]
        width, height, *pictures = events[-1].tensor_proto.string_val
        (picture,) = (mpimage.imread(io.BytesIO(png)) for png in pictures)
        assert picture.shape[:2] == (int(height), int(width)) and picture[..., :3].std() > 0.05
    assert set(by_plugin(accumulator(runs / "natural"))["images"]) == {"input_gradients"}


def test_flags_and_command_as_text(runs):
    found = by_plugin(accumulator(runs / "student"))["text"]
    (flags,) = found["run/flags"][0].tensor_proto.string_val
    lines = [line.strip() for line in flags.decode().splitlines()]
    assert lines == (runs / "student/flags.txt").read_text().splitlines()
    (command,) = found["run/command"][0].tensor_proto.string_val
    assert b"--flagfile=flags.txt" in command and b"python" in command


def test_hparams_has_the_flags_that_differ_and_the_final_accuracies(runs):
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(runs)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(runs))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    content = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, content, [])
    names = {info.name for info in experiment.hparam_infos}
    assert {"method", "seed", "eps", "learning_rate", "blocks"} <= names
    assert not names & {"momentum", "run_dir", "log_every", "alpha_acm"}
    metrics = {(info.name.group, info.name.tag) for info in experiment.metric_infos}
    assert {("", "accuracy/clean"), ("", "accuracy/fgsm")} <= metrics
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_UNKNOWN]
    )
    asked.col_params.add(metric=api_pb2.MetricName(tag="accuracy/fgsm"))
    groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
    assert {group.hparams["seed"].number_value for group in groups} == {0.0, 3.0}
    for group in groups:
        name = "student" if group.hparams["method"].string_value == "mixacm" else "natural"
        result = json.loads((runs / name / "results.json").read_text())
        values = {value.name.tag: value.value for value in group.metric_values}
        assert values["accuracy/fgsm"] == pytest.approx(result["accuracy"]["fgsm"], rel=1e-6)


def test_a_run_that_goes_on_takes_the_place_of_the_steps_after_its_checkpoint(tmp_path):
    for begin, values in ((0, range(1, 11)), (6, range(7, 9)), (8, range(9, 13))):
        events = Events(tmp_path / "tensorboard", begin)
        for step in values:
            events.scalar("epochs/loss", step + 100 * begin, step)
        events.close()
    points = accumulator(tmp_path).Tensors("epochs/loss")
    assert [point.step for point in points] == list(range(1, 13))
    found = [point.tensor_proto.float_val[0] for point in points]
    np.testing.assert_array_equal(found, [1, 2, 3, 4, 5, 6, 607, 608, 809, 810, 811, 812])
