import io
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from fracture_ml.core.errors import UnusableObject
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import MediaType, OperatingPoint, OperatingPoints, Rejected, Scored, StoredRadiograph
from fracture_ml.data.preprocess import to_model_input
from fracture_ml.imaging.letterbox import letterbox
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.device import autocast
from fracture_ml.model.network import build_network
from fracture_ml.scoring.score import Scorer

CPU = torch.device("cpu")
SIZE_PX = 64


def points(lower, upper):
    return OperatingPoints(t_sensitivity=lower, t_specificity=upper, target_sensitivity=0.95, target_specificity=0.95)


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    network = build_network()
    with torch.no_grad():  # an untrained last layer hardly tells images apart
        network.fc.weight.mul_(3)
    return Bundle(
        state=network.state_dict(),
        recipe=TrainRecipe(image_size_px=SIZE_PX),
        preprocess=PreprocessSpec(image_size_px=SIZE_PX, mean=0.3, std=0.2),
        calibration={"temperature": 1.5, "bias": 0.2},
        operating_points=points(0.0, 0.0),
        code_version="test",
        snapshot_id="0" * 64,
    )


def png(seed, width=120, height=90):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 4)
    buffer = io.BytesIO()
    Image.fromarray((np.clip(noise / noise.std() * 50 + 100, 0, 255)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def item(number, content):
    return StoredRadiograph(radiograph_id=number, sha256="", object_key="", media_type=MediaType.PNG), content


def test_each_item_has_exactly_one_outcome_in_order(bundle):
    contents = [png(1), b"not an image", png(2), UnusableObject("gone from the bucket"), png(3)[:-400], png(4), b""]
    outcomes = list(Scorer(bundle, CPU, batch_size=2).score(item(n, content) for n, content in enumerate(contents)))
    assert [outcome.radiograph_id for outcome in outcomes] == list(range(7))
    assert [type(outcome) for outcome in outcomes] == [Scored, Rejected, Scored, Rejected, Rejected, Scored, Rejected]
    assert outcomes[1].reason.startswith("not_an_image: ")
    assert outcomes[3].reason == "unusable: gone from the bucket"
    assert outcomes[4].reason.startswith("truncated: ")


def test_the_score_is_that_of_the_whole_network(bundle):
    (outcome,) = Scorer(bundle, CPU).score([item(1, png(1))])
    pixels = np.asarray(Image.open(io.BytesIO(png(1))))
    x = to_model_input(torch.from_numpy(letterbox(pixels, SIZE_PX))[None, None], bundle.preprocess)
    with torch.inference_mode(), autocast(CPU):
        logits = bundle.build_network(CPU)(x.contiguous(memory_format=torch.channels_last)).float()[0]
    assert outcome.probability == pytest.approx(torch.softmax(logits, 0)[1].item(), abs=1e-6)
    margin = (logits[1] - logits[0]).item()
    assert outcome.calibrated == pytest.approx(1 / (1 + np.exp(-(margin / 1.5 + 0.2))), abs=1e-6)


def test_a_score_does_not_depend_on_its_neighbours_in_the_batch(bundle):
    items = [item(n, png(n)) for n in range(7)]
    together = [outcome.probability for outcome in Scorer(bundle, CPU, batch_size=16).score(items)]
    alone = [outcome.probability for outcome in Scorer(bundle, CPU, batch_size=1).score(items)]
    turned = [outcome.probability for outcome in Scorer(bundle, CPU, batch_size=3).score(items[::-1])][::-1]
    assert np.ptp(together) > 0.01  # the images differ
    assert together == pytest.approx(alone, abs=1e-3)
    assert together == pytest.approx(turned, abs=1e-3)


def test_an_output_that_is_not_a_number_is_rejected(bundle):
    broken = replace(bundle, state={**bundle.state, "fc.bias": torch.tensor([float("nan"), 0.0])})
    (outcome,) = Scorer(broken, CPU).score([item(1, png(1))])
    assert isinstance(outcome, Rejected)
    assert outcome.reason.startswith("not_a_number: ")


def test_heat_maps_are_drawn_at_or_above_the_lower_operating_point_alone(bundle):
    scores = [outcome.calibrated for outcome in Scorer(bundle, CPU).score([item(n, png(n)) for n in range(6)])]
    lower = sorted(scores)[3]
    between = replace(bundle, operating_points=points(lower, 1.1))
    outcomes = list(Scorer(between, CPU).score([item(n, png(n)) for n in range(6)]))
    assert sorted(outcome.operating_point for outcome in outcomes) == [OperatingPoint.BELOW] * 3 + ["suspicious"] * 3
    for outcome in outcomes:
        flagged = outcome.operating_point != OperatingPoint.BELOW
        assert (outcome.overlay_png is not None) == (outcome.heat_map_png is not None) == flagged


def test_heat_maps_can_be_switched_off_and_the_score_stays(bundle):
    (drawn,) = Scorer(bundle, CPU).score([item(1, png(1))])
    (plain,) = Scorer(bundle, CPU, heat_maps=False).score([item(1, png(1))])
    assert drawn.overlay_png and drawn.box
    assert (plain.heat_map_png, plain.overlay_png, plain.box) == (None, None, None)
    assert plain.calibrated == drawn.calibrated


def test_the_box_and_the_pictures_lie_in_the_source_image(bundle):
    for width, height in ((120, 90), (90, 300), (2400, 1300)):
        (outcome,) = Scorer(bundle, CPU).score([item(1, png(1, width, height))])
        box = outcome.box
        assert 0 <= box.x < box.x + box.width <= width + 1e-6
        assert 0 <= box.y < box.y + box.height <= height + 1e-6
        grey = Image.open(io.BytesIO(outcome.heat_map_png))
        assert grey.width / grey.height == pytest.approx(width / height, rel=0.02)
        assert max(Image.open(io.BytesIO(outcome.overlay_png)).size) <= 1024


def test_no_more_than_a_few_batches_are_held_however_long_the_backlog(bundle):
    pulled = []

    def endless():
        for number in count():
            pulled.append(number)
            yield item(number, png(number % 5))

    outcomes = Scorer(bundle, CPU, batch_size=2, heat_maps=False).score(endless())
    assert [outcome.radiograph_id for outcome in islice(outcomes, 5)] == [0, 1, 2, 3, 4]
    outcomes.close()
    assert len(pulled) <= 10


def test_an_error_that_is_not_the_images_fault_is_raised(bundle):
    def failing():
        yield item(0, png(0))
        raise ConnectionError("the bucket is away")

    with pytest.raises(ConnectionError):
        list(Scorer(bundle, CPU).score(failing()))
