import copy
import datetime

import pytest
import torch
from torch import distributed, multiprocessing, nn

from relsdk.errors import InputError
from relsdk_training.engine.gather import all_gather, all_gather_with_gradient
from relsdk_training.engine.processes import average_gradients, gather_values, leave
from relsdk_training.losses.contrastive import label_weighted_info_nce
from relsdk_training.objectives._grad_cache import encode_in_chunks

WORLD = 2


class Step(nn.Module):
    """A learned temperature and an encoder that runs in chunks; the loss is that of the global batch."""

    def __init__(self, chunk_rows):
        super().__init__()
        self.chunk_rows = chunk_rows
        torch.manual_seed(0)
        self.encoder = nn.Linear(5, 4, dtype=torch.float64)
        self.log_temperature = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def encode(self, rows):
        inputs = {"rows": rows, "attention_mask": torch.ones(len(rows), 1)}
        return encode_in_chunks(lambda chunk: self.encoder(chunk["rows"]), inputs, self.chunk_rows)

    def forward(self, queries, documents, labels):
        loss, _ = label_weighted_info_nce(
            all_gather_with_gradient(self.encode(queries)),
            all_gather_with_gradient(self.encode(documents)),
            all_gather(labels),
            temperature=self.log_temperature.exp(),
            self_contrast=True,
        )
        return loss


def batch():
    generator = torch.Generator().manual_seed(1)
    queries, documents = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)
    return queries, documents, torch.tensor([3, 1, 0, 2, 1, 3])


def gradients(module):
    return [parameter.grad for parameter in module.parameters()]


def own_rows_against_all(rows):
    """The other form: each rank's mean over its own rows, here of a square sum of dot products."""
    return (rows @ all_gather_with_gradient(rows).T).square().sum(dim=1).mean()


def rank_main(rank, folder):
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=120),
    )
    mine = [part.chunk(WORLD)[rank] for part in batch()]
    model = Step(chunk_rows=2)
    encoder = copy.deepcopy(model.encoder)
    loss = model(*mine)
    loss.backward()
    own_rows_against_all(encoder(mine[0])).backward()
    for module in (model, encoder):
        average_gradients(module.parameters())
    try:
        all_gather(torch.zeros(1 + rank))
        message = ""
    except InputError as error:
        message = str(error)
    results = {
        "loss": loss.detach(),
        "gradients": gradients(model),
        "own_rows": gradients(encoder),
        "labels": all_gather(mine[2]),
        "message": message,
    }
    torch.save(results, f"{folder}/{rank}.pt")
    gather_values(None)  # nobody leaves before all are here
    leave()


def other_rank_main(number, folder):
    rank_main(1 + number, folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found: this process is the first, so only the others have to import torch."""
    folder = tmp_path_factory.mktemp("ranks")
    others = multiprocessing.spawn(other_rank_main, (str(folder),), nprocs=WORLD - 1, join=False)
    rank_main(0, folder)
    while not others.join():
        pass
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def test_two_processes_equal_one_with_the_same_global_batch(ranks):
    step = Step(chunk_rows=6)
    loss = step(*batch())
    loss.backward()
    for rank in ranks:
        assert float(rank["loss"]) == pytest.approx(loss.item(), abs=1e-12)
        for got, expected in zip(rank["gradients"], gradients(step), strict=True):
            assert (got - expected).abs().max() <= 1e-12


def test_a_loss_of_own_rows_against_all_needs_no_factor_either(ranks):
    encoder = Step(chunk_rows=6).encoder
    own_rows_against_all(encoder(batch()[0])).backward()
    for rank in ranks:
        for got, expected in zip(rank["own_rows"], gradients(encoder), strict=True):
            assert (got - expected).abs().max() <= 1e-10


def test_labels_come_in_the_order_of_ranks(ranks):
    for rank in ranks:
        assert torch.equal(rank["labels"], batch()[2])


def test_unequal_shares_are_refused(ranks):
    for rank in ranks:
        assert "ranks hold [1, 2] rows" in rank["message"]


def test_one_process_gathers_itself():
    rows = torch.ones(3, 2, requires_grad=True)
    assert all_gather_with_gradient(rows) is rows
    assert not all_gather(rows).requires_grad
