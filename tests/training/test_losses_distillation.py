import pytest
import torch

from relsdk.errors import InputError
from relsdk_training.losses.distillation import cosine_distance, similarity_matrix_loss

LOSSES = [cosine_distance, similarity_matrix_loss]


def test_cosine_distance_by_hand():
    student, teacher = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [6.0, 8.0]])
    assert float(cosine_distance(student, teacher)) == pytest.approx(0.5)  # 1 and 0


def test_similarity_matrix_by_hand():
    # Student pairs: cosines 0, 1, 0; teacher pairs: 0, 0, 1. Two of three pairs are off by 1.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert float(similarity_matrix_loss(student, teacher)) == pytest.approx(2 / 3)


def test_similarity_matrix_ignores_a_rotation():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))
    assert float(similarity_matrix_loss(teacher @ turn, teacher)) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_student_learns(loss):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher.detach()), (student,))


@pytest.mark.parametrize("loss", LOSSES)
def test_other_shapes_are_refused(loss):
    with pytest.raises(InputError, match="must be equal"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_one_row_has_no_similarities():
    with pytest.raises(InputError, match="at least 2"):
        similarity_matrix_loss(torch.zeros(1, 3), torch.zeros(1, 3))
