"""The localised cross-entropy: plain where nobody drew, and asked of the right cells where somebody did."""

import pytest
import torch
import torch.nn.functional as F

from fracture_ml.model.network import logits_of
from fracture_ml.training.loss import is_fractured, localised_cross_entropy

EVIDENCE = 3 * torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("label", [0, 1])
def test_without_a_fracture_and_with_one_that_nobody_drew_it_is_the_plain_cross_entropy(label):
    fractured = torch.full((6, 3, 3), float(label))
    plain = F.cross_entropy(logits_of(EVIDENCE), torch.full((6,), label), reduction="none")
    torch.testing.assert_close(localised_cross_entropy(EVIDENCE, fractured), plain)
    assert is_fractured(fractured).tolist() == [bool(label)] * 6


def test_a_drawn_fracture_is_asked_for_inside_its_box_and_nowhere_else():
    fractured = torch.zeros(6, 3, 3)
    fractured[:, 1, :2] = torch.tensor([1.0, 0.3])
    inside = torch.zeros(3, 3, dtype=torch.bool)
    inside[1, :2] = True
    somewhere = EVIDENCE[:, inside].exp().sum(1).log()
    nowhere = EVIDENCE[:, ~inside].exp().sum(1).log()
    expected = -F.logsigmoid(somewhere) - F.logsigmoid(-nowhere)
    torch.testing.assert_close(localised_cross_entropy(EVIDENCE, fractured), expected)

    evidence = EVIDENCE.clone().requires_grad_()
    localised_cross_entropy(evidence, fractured).sum().backward()
    assert (evidence.grad[:, inside] < 0).all()  # more of it lowers the loss
    assert (evidence.grad[:, ~inside] > 0).all()


def test_between_a_twentieth_and_a_fifth_of_a_fracture_nothing_is_asked():
    fractured = torch.tensor([[0.0, 0.049, 0.05, 0.1, 0.199, 0.2, 1.0]]).view(1, 1, 7)
    evidence = torch.zeros(1, 1, 7, requires_grad=True)
    localised_cross_entropy(evidence, fractured).sum().backward()
    assert torch.sign(evidence.grad).flatten().tolist() == [1, 1, 0, 0, 0, -1, -1]


def test_a_sliver_of_a_fracture_is_no_fracture_and_its_cell_is_not_asked_either():
    fractured = torch.zeros(1, 2, 2)
    fractured[0, 0, 0] = 0.15
    evidence = torch.zeros(1, 2, 2, requires_grad=True)
    loss = localised_cross_entropy(evidence, fractured)
    assert not is_fractured(fractured).any()
    assert loss.item() == pytest.approx(float(torch.log1p(torch.tensor(3.0))))  # three cells of evidence 0
    loss.backward()
    assert torch.sign(evidence.grad).flatten().tolist() == [0, 1, 1, 1]


def test_evidence_of_any_size_gives_finite_gradients():
    for size in (1e-3, 60.0, 1e4):
        for fractured in (torch.zeros(6, 3, 3), torch.ones(6, 3, 3), torch.full((6, 3, 3), 0.1)):
            evidence = (size * EVIDENCE).requires_grad_()
            loss = localised_cross_entropy(evidence, fractured).sum()
            loss.backward()
            assert loss.isfinite() and evidence.grad.isfinite().all()
