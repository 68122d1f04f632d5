"""The loss: cross-entropy about the image, and about the place where somebody drew it."""

import pytest
import torch
import torch.nn.functional as F

from fracture_ml.model.network import logits_of
from fracture_ml.training.loss import loss_of_images

EVIDENCE = 3 * torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(0))
TRUTH = torch.tensor([0, 1, 0, 1, 1, 0])


def drawn() -> torch.Tensor:
    fractured = torch.zeros(6, 3, 3)
    fractured[TRUTH == 1, 1, :2] = torch.tensor([1.0, 0.3])
    return fractured


def test_without_a_weight_for_the_place_it_is_the_plain_cross_entropy():
    plain = F.cross_entropy(logits_of(EVIDENCE), TRUTH, reduction="none")
    torch.testing.assert_close(loss_of_images(EVIDENCE, TRUTH, drawn(), 0.0), plain)


@pytest.mark.parametrize("fractured", [torch.zeros(6, 3, 3), torch.ones(6, 3, 3), torch.full((6, 3, 3), 0.1)])
def test_where_nobody_drew_and_where_nothing_is_to_be_seen_no_place_is_asked_for(fractured):
    plain = F.cross_entropy(logits_of(EVIDENCE), TRUTH, reduction="none")
    torch.testing.assert_close(loss_of_images(EVIDENCE, TRUTH, fractured, 0.7), plain)


def test_the_place_is_asked_for_by_the_share_of_the_softmax_that_lies_in_the_box():
    place = loss_of_images(EVIDENCE, TRUTH, drawn(), 2.0) - loss_of_images(EVIDENCE, TRUTH, drawn(), 0.0)
    shares = EVIDENCE.flatten(1).softmax(1).view(6, 3, 3)
    expected = torch.where(TRUTH == 1, -2.0 * shares[:, 1, :2].sum(1).log(), 0.0)
    torch.testing.assert_close(place, expected)


def test_the_place_pulls_the_evidence_into_the_box_and_leaves_its_level_alone():
    evidence = EVIDENCE.clone().requires_grad_()
    (loss_of_images(evidence, TRUTH, drawn(), 1.0) - loss_of_images(evidence, TRUTH, drawn(), 0.0)).sum().backward()
    gradient = evidence.grad[TRUTH == 1]  # (3, 3, 3)
    inside = torch.zeros(3, 3, dtype=torch.bool)
    inside[1, :2] = True
    assert (gradient[:, inside] < 0).all() and (gradient[:, ~inside] > 0).all()
    assert gradient.sum(dim=(1, 2)).abs().max().item() == pytest.approx(0, abs=1e-5)


def test_a_cell_that_shows_less_than_a_fifth_of_a_fracture_is_not_inside():
    fractured = torch.tensor([[0.0, 0.199, 0.2, 1.0]]).view(1, 1, 4)
    evidence = torch.zeros(1, 1, 4, requires_grad=True)
    truth = torch.tensor([1])
    (loss_of_images(evidence, truth, fractured, 1.0) - loss_of_images(evidence, truth, fractured, 0.0)).backward()
    assert torch.sign(evidence.grad).flatten().tolist() == [1, 1, -1, -1]


def test_evidence_of_any_size_gives_finite_gradients():
    for size in (1e-3, 60.0, 1e4):
        for fractured in (torch.zeros(6, 3, 3), torch.ones(6, 3, 3), drawn()):
            evidence = (size * EVIDENCE).requires_grad_()
            loss = loss_of_images(evidence, TRUTH, fractured, 1.0).sum()
            loss.backward()
            assert loss.isfinite() and evidence.grad.isfinite().all()
