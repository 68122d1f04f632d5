"""The network, where it starts from, and what it travels in."""

import hashlib
import io
import json
import pickle
import time
from dataclasses import replace

import pytest
import torch
import torchvision

from fracture_ml.core.errors import BundleMismatch, ObjectNotFound, WeightsUnavailable
from fracture_ml.core.recipe import PreprocessSpec, TrainRecipe
from fracture_ml.core.records import OperatingPoints
from fracture_ml.model import weights
from fracture_ml.model.bundle import Bundle
from fracture_ml.model.network import build_network, logits_of
from fracture_ml.model.weights import load_initial_weights


@pytest.fixture(scope="module")
def three_channels() -> torch.nn.Module:
    """A torchvision ResNet50 as ImageNet's weights would fill it: three channels, 1000 classes, settled batch norm."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, 3, 64, 64))
    return network.eval()


def _bytes_of(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_a_one_channel_stem_equals_three_equal_channels(three_channels):
    network = build_network(initial_state=three_channels.state_dict()).eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        theirs = three_channels.bn1(three_channels.conv1(image.expand(-1, 3, -1, -1)))
        ours = network.bn1(network.conv1(image))
        assert (theirs - ours).abs().max() < 1e-5
        features = torch.nn.Sequential(*list(three_channels.children())[:-2])(image.expand(-1, 3, -1, -1))
        assert (features - network.feature_maps(image)[-1]).abs().max() < 1e-5 * features.abs().max()


def test_the_evidence_is_the_last_layer_applied_to_every_cell_and_its_mean_is_the_score():
    network = build_network().eval()
    image = torch.randn(2, 1, 96, 64)
    with torch.no_grad():
        cells = network.feature_maps(image)[-1].permute(0, 2, 3, 1)  # (2, 3, 2, 2048)
        of_classes = network.fc(cells)  # (2, 3, 2, 2)
        evidence = network.evidence(image)
        torch.testing.assert_close(evidence, of_classes[..., 1] - of_classes[..., 0], atol=1e-4, rtol=1e-4)
        logits = network(image)
    assert torch.equal(logits, logits_of(evidence))
    assert torch.equal(logits[:, 0], torch.zeros(2))
    torch.testing.assert_close(logits[:, 1], evidence.mean(dim=(1, 2)))
    pooled = network.fc(network.feature_maps(image)[-1].mean(dim=(2, 3))).detach()  # as torchvision's ResNet50 ends
    torch.testing.assert_close(logits[:, 1], pooled[:, 1] - pooled[:, 0], atol=1e-4, rtol=1e-4)


def test_a_mirrored_score_is_the_mean_of_both_sides_and_of_a_symmetric_image_the_same():
    network = build_network().eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        plain, other = network.evidence(image), network.evidence(image.flip(3)).flip(2)
        network.mirrors = True
        torch.testing.assert_close(network.evidence(image), (plain + other) / 2)
        torch.testing.assert_close(network.evidence(image.flip(3)).flip(2), network.evidence(image))
        shown = network.attention(image, places=True).shown
        torch.testing.assert_close(network.attention(image.flip(3), places=True).shown.flip(2), shown)


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsUnavailable, match="ResNet50"):
        build_network(initial_state=torchvision.models.resnet18(weights=None).state_dict())


def test_weights_come_from_a_file_or_the_bucket_and_say_so(three_channels, tmp_path):
    data = _bytes_of(three_channels.state_dict())
    path = tmp_path / "resnet50.pth"
    path.write_bytes(data)
    state, used = load_initial_weights(str(path), {}.__getitem__)
    assert used == f"file:{hashlib.sha256(data).hexdigest()}"
    assert torch.equal(state["layer1.0.conv1.weight"], three_channels.state_dict()["layer1.0.conv1.weight"])
    assert (
        load_initial_weights("s3:weights/resnet50.pth", {"weights/resnet50.pth": data}.__getitem__).used
        == f"s3:weights/resnet50.pth#{hashlib.sha256(data).hexdigest()}"
    )
    named = load_initial_weights("s3:w", {"w": data}.__getitem__).used
    assert load_initial_weights(named, {"w": data}.__getitem__).used == named
    with pytest.raises(WeightsUnavailable, match="others than the recipe began with"):
        load_initial_weights(named, {"w": data + b"another"}.__getitem__)
    assert load_initial_weights("none", {}.__getitem__) == (None, "none")


def test_weights_that_cannot_be_had_are_named_with_the_remedy(tmp_path):
    def nothing_there(key: str) -> bytes:
        raise ObjectNotFound(key)

    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(print))
    (tmp_path / "list.pth").write_bytes(_bytes_of([1, 2]))
    for source in (str(tmp_path / "absent.pth"), "s3:absent", str(tmp_path / "pickle.pth"), str(tmp_path / "list.pth")):
        with pytest.raises(WeightsUnavailable, match="FRACTURE_INITIAL_WEIGHTS"):
            load_initial_weights(source, nothing_there)


def test_without_a_network_imagenet_fails_within_seconds_and_auto_starts_from_scratch(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # An address that never answers, as behind a hospital's firewall.
    monkeypatch.setattr(weights.ResNet50_Weights.DEFAULT.value, "url", "https://192.0.2.1/resnet50.pth", raising=False)
    started = time.monotonic()
    with pytest.raises(WeightsUnavailable, match="FRACTURE_INITIAL_WEIGHTS"):
        load_initial_weights("imagenet", {}.__getitem__)
    assert time.monotonic() - started < 8
    assert load_initial_weights("auto", {}.__getitem__) == (None, "none")
    assert "from scratch" in caplog.text


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(1)
    return Bundle(
        state=build_network().state_dict(),
        recipe=TrainRecipe(image_size_px=64),
        preprocess=PreprocessSpec(image_size_px=64, mean=0.2, std=0.3),
        calibration={"temperature": 1.5, "bias": -0.25},
        operating_points=OperatingPoints(
            t_sensitivity=0.2, t_specificity=0.8, target_sensitivity=0.95, target_specificity=0.95
        ),
        code_version="0.1.0+abc",
        snapshot_id="s" * 64,
    )


def test_a_bundle_comes_back_as_it_was_and_gives_the_same_answer(bundle):
    data, sha256 = bundle.to_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256 == bundle.to_bytes()[1]
    back = Bundle.from_bytes(data, expected_sha256=sha256)
    assert replace(back, state=bundle.state) == bundle
    image = torch.randn(1, 1, 64, 64)
    before = build_network(initial_state=bundle.state).eval()
    with torch.no_grad():
        torch.testing.assert_close(back.build_network(torch.device("cpu"))(image), before(image))


def test_a_bundle_from_before_networks_could_say_where_still_scores_and_shows_its_evidence(bundle):
    data, _ = bundle.to_bytes()
    content = torch.load(io.BytesIO(data), weights_only=True)
    content["about"] = json.dumps({**json.loads(content["about"]), "format": 2})
    content["state"] = {name: tensor for name, tensor in content["state"].items() if not name.startswith("places.")}
    old = _bytes_of(content)
    network = Bundle.from_bytes(old, expected_sha256=hashlib.sha256(old).hexdigest()).build_network(torch.device("cpu"))
    image = torch.randn(1, 1, 64, 64)
    before = build_network(initial_state=bundle.state).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image), before(image))
    assert not network.knows_places


def test_what_is_shown_is_the_evidence_or_the_chance_of_a_fracture_in_each_place():
    network = build_network().eval()
    image = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        network.places.fine.weight.normal_()
        network.places.middle.weight.normal_()
        evidence, shown = network.attention(image, places=False)
        assert torch.equal(shown, evidence) and torch.equal(evidence, network.evidence(image))
        evidence, shown = network.attention(image, places=True)
        fine, middle = (answers.sigmoid() for answers in network.places(*network.feature_maps(image)[:2]))
    assert torch.equal(evidence, network.evidence(image)) and shown.shape == fine.shape == (2, 8, 12)
    middle = torch.nn.functional.interpolate(middle.log()[:, None], (8, 12), mode="bilinear")[:, 0].exp()
    torch.testing.assert_close(shown, (fine * middle).sqrt(), atol=1e-5, rtol=1e-3)


def test_a_bundle_with_other_bytes_or_parts_is_not_used(bundle):
    data, sha256 = bundle.to_bytes()
    with pytest.raises(BundleMismatch, match="not those that were registered"):
        Bundle.from_bytes(data[:-1] + b"x", expected_sha256=sha256)
    ran = []
    for other in (b"nothing", _bytes_of({"state": {}}), pickle.dumps(ran.append), _bytes_of([1])):
        with pytest.raises(BundleMismatch, match="cannot be read"):
            Bundle.from_bytes(other, expected_sha256=hashlib.sha256(other).hexdigest())
    with pytest.raises(BundleMismatch, match="image sizes"):
        replace(bundle, recipe=TrainRecipe(image_size_px=96))
    with pytest.raises(BundleMismatch, match="do not fit this code's network"):
        replace(bundle, state=torchvision.models.resnet18(weights=None).state_dict())
