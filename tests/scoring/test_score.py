import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from fracture_ml.core.errors import OutOfMemory, UnusableObject
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import MediaType, OperatingPoint, OperatingPoints, Rejected, Scored, StoredRadiograph
from fracture_ml.data.preprocess import to_model_input
from fracture_ml.imaging.letterbox import letterbox
from fracture_ml.model.bundle import Bundle
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


def png(seed, width=120, height=90, kind="PNG"):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 4)
    buffer = io.BytesIO()
    Image.fromarray((np.clip(noise / noise.std() * 50 + 100, 0, 255)).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def jpeg(seed, width=120, height=90):
    return png(seed, width, height, "JPEG")


def item(number, content):
    """`content`: the bytes, or the error that is raised where they are asked for."""

    def read():
        if isinstance(content, Exception):
            raise content
        return content

    radiograph = StoredRadiograph(
        radiograph_id=number, sha256="", object_key="", media_type=MediaType.PNG, stored_sha256=None
    )
    return radiograph, read


def outcomes_of(bundle, items, **options):
    with Scorer(bundle, CPU, **options) as scorer:
        return list(scorer.score(items))


def test_each_item_has_exactly_one_outcome_in_order(bundle):
    contents = [png(1), b"not an image", png(2), UnusableObject("gone from the bucket"), png(3)[:-400], png(4), b""]
    outcomes = outcomes_of(bundle, (item(n, content) for n, content in enumerate(contents)), batch_size=2)
    assert [outcome.radiograph_id for outcome in outcomes] == list(range(7))
    assert [type(outcome) for outcome in outcomes] == [Scored, Rejected, Scored, Rejected, Rejected, Scored, Rejected]
    assert outcomes[1].reason.startswith("not_an_image: ")
    assert outcomes[3].reason == "unusable: gone from the bucket"
    assert outcomes[4].reason.startswith("truncated: ")


def test_probabilities_are_within_two_hundredths_of_the_plain_network_in_float32(bundle):
    files = [png(n) for n in range(12)]
    outcomes = outcomes_of(bundle, [item(n, data) for n, data in enumerate(files)])
    squares = np.stack([letterbox(np.asarray(Image.open(io.BytesIO(data))), SIZE_PX) for data in files])
    x = to_model_input(torch.from_numpy(squares)[:, None], bundle.preprocess)
    with torch.inference_mode():
        logits = bundle.build_network(CPU)(x)
    assert [one.probability for one in outcomes] == pytest.approx(torch.softmax(logits, 1)[:, 1].tolist(), abs=0.02)
    margins = (logits[:, 1] - logits[:, 0]).numpy()
    assert [one.calibrated for one in outcomes] == pytest.approx(1 / (1 + np.exp(-(margins / 1.5 + 0.2))), abs=0.02)


def test_a_score_does_not_depend_on_its_neighbours_in_the_batch(bundle):
    items = [item(n, png(n)) for n in range(7)]
    together = [outcome.probability for outcome in outcomes_of(bundle, items, batch_size=16)]
    alone = [outcome.probability for outcome in outcomes_of(bundle, items, batch_size=1)]
    turned = [outcome.probability for outcome in outcomes_of(bundle, items[::-1], batch_size=3)][::-1]
    assert np.ptp(together) > 0.01  # the images differ
    assert together == pytest.approx(alone, abs=1e-3)
    assert together == pytest.approx(turned, abs=1e-3)


def test_a_photograph_is_refused_where_nobody_looked_for_colours_before(bundle):
    yellow, blue = np.array([250, 210, 40], np.uint8), np.array([20, 60, 200], np.uint8)
    photograph, grey = io.BytesIO(), io.BytesIO()
    checks = np.kron(np.indices((6, 8)).sum(0) % 2, np.ones((16, 16), int))[..., None]
    Image.fromarray(np.where(checks == 0, yellow, blue).astype(np.uint8)).save(photograph, "JPEG", quality=95)
    Image.open(io.BytesIO(jpeg(5))).convert("RGB").save(grey, "JPEG", quality=95)
    items = [item(1, photograph.getvalue()), item(2, grey.getvalue())]
    refused, looked_at = outcomes_of(bundle, items)
    assert isinstance(refused, Rejected)
    assert refused.reason.startswith("not_a_radiograph: A colour picture")
    taken_for_grey, quick = outcomes_of(bundle, items, colours_checked=True)
    assert isinstance(taken_for_grey, Scored)
    assert quick.probability == pytest.approx(looked_at.probability, abs=1e-6)


def test_an_output_that_is_not_a_number_is_rejected(bundle):
    broken = replace(bundle, state={**bundle.state, "fc.bias": torch.tensor([float("nan"), 0.0])})
    (outcome,) = outcomes_of(broken, [item(1, png(1))])
    assert isinstance(outcome, Rejected)
    assert outcome.reason.startswith("not_a_number: ")


def test_heat_maps_are_drawn_at_or_above_the_lower_operating_point_alone(bundle):
    scores = [outcome.calibrated for outcome in outcomes_of(bundle, [item(n, png(n)) for n in range(6)])]
    lower = sorted(scores)[3]
    between = replace(bundle, operating_points=points(lower, 1.1))
    outcomes = outcomes_of(between, [item(n, png(n)) for n in range(6)])
    assert sorted(outcome.operating_point for outcome in outcomes) == [OperatingPoint.BELOW] * 3 + ["suspicious"] * 3
    for outcome in outcomes:
        flagged = outcome.operating_point != OperatingPoint.BELOW
        assert (outcome.overlay_png is not None) == (outcome.heat_map_png is not None) == flagged


def test_heat_maps_can_be_switched_off_and_the_score_stays(bundle):
    (drawn,) = outcomes_of(bundle, [item(1, png(1))])
    (plain,) = outcomes_of(bundle, [item(1, png(1))], heat_maps=False)
    assert drawn.overlay_png and drawn.box
    assert (plain.heat_map_png, plain.overlay_png, plain.box) == (None, None, None)
    assert plain.calibrated == drawn.calibrated


@pytest.mark.parametrize("encode", [png, jpeg])
def test_the_box_and_the_pictures_lie_in_the_source_image(bundle, encode):
    for width, height in ((120, 90), (90, 300), (2400, 1300)):
        (outcome,) = outcomes_of(bundle, [item(1, encode(1, width, height))])
        box = outcome.box
        assert 0 <= box.x < box.x + box.width <= width + 1e-6
        assert 0 <= box.y < box.y + box.height <= height + 1e-6
        grey = Image.open(io.BytesIO(outcome.heat_map_png))
        assert max(grey.size) == 112
        assert grey.width / grey.height == pytest.approx(width / height, rel=0.02)
        overlay = Image.open(io.BytesIO(outcome.overlay_png))
        assert 320 <= max(overlay.size) <= 600


def test_an_overlay_shows_more_of_a_large_jpeg_than_the_network_saw(bundle):
    (outcome,) = outcomes_of(bundle, [item(1, jpeg(1, 1024, 768))])
    overlay = np.asarray(Image.open(io.BytesIO(outcome.overlay_png)).convert("L"))[:384]
    source = np.asarray(Image.open(io.BytesIO(jpeg(1, 1024, 768))).resize((512, 384)))
    assert overlay.shape == source.shape
    assert np.corrcoef(overlay.ravel(), source.ravel())[0, 1] > 0.6


def test_a_strip_with_no_room_for_the_caption_is_scored_without_pictures_and_its_neighbours_with_theirs(bundle):
    always = replace(bundle, operating_points=points(0.0, 1.0))
    strip, usual = outcomes_of(always, [item(0, png(0, width=32, height=6400)), item(1, png(1))])
    assert strip.probability is not None and strip.overlay_png is None and strip.box is None
    assert usual.overlay_png is not None


def test_no_more_than_a_few_batches_are_held_however_long_the_backlog(bundle):
    pulled = []

    def endless():
        for number in count():
            pulled.append(number)
            yield item(number, png(number % 5))

    with Scorer(bundle, CPU, batch_size=2, heat_maps=False, threads=2) as scorer:
        outcomes = scorer.score(endless())
        assert [outcome.radiograph_id for outcome in islice(outcomes, 5)] == [0, 1, 2, 3, 4]
        outcomes.close()
    assert len(pulled) <= 10


def test_an_error_that_is_not_the_images_fault_is_raised(bundle):
    with pytest.raises(ConnectionError):
        outcomes_of(bundle, [item(0, png(0)), item(1, ConnectionError("the bucket is away"))])


def test_the_number_of_threads_of_this_process_is_as_it_was(bundle):
    before = torch.get_num_threads()
    outcomes_of(bundle, [item(1, png(1))], threads=3)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == before


def test_a_device_whose_memory_is_full_scores_in_smaller_parts_and_the_scores_stay(bundle, monkeypatch):
    items = [item(number, png(number)) for number in range(7)]
    whole, sizes = outcomes_of(bundle, items), []
    together = Scorer._forward_together

    def with_memory_for_two(scorer, squares):
        sizes.append(len(squares))
        if len(squares) > 2:
            raise torch.OutOfMemoryError("no memory")
        return together(scorer, squares)

    monkeypatch.setattr(Scorer, "_forward_together", with_memory_for_two)
    in_parts = outcomes_of(bundle, items)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    assert [one.radiograph_id for one in in_parts] == [one.radiograph_id for one in whole]
    assert [one.probability for one in in_parts] == pytest.approx([one.probability for one in whole], abs=1e-3)


def test_a_device_without_memory_for_one_image_is_no_images_fault(bundle, monkeypatch):
    def never(scorer, squares):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(Scorer, "_forward_together", never)
    with pytest.raises(OutOfMemory, match="FRACTURE_DEVICE"):
        outcomes_of(bundle, [item(1, png(1)), item(2, png(2))])
