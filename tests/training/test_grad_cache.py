import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel

from relsdk.errors import InputError
from relsdk_training.losses.contrastive import label_weighted_info_nce
from relsdk_training.objectives._grad_cache import encode_in_chunks


class ToyEncoder(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 8)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 6))
        self.double()
        self.masks = []
        self.widths = []

    def forward(self, inputs):
        mask = inputs["attention_mask"][..., None].double()
        self.widths.append(mask.shape[1])
        dropped = self.dropout(self.table(inputs["input_ids"]))
        self.masks.append((dropped == 0).clone())
        return self.mix((dropped * mask).sum(1) / mask.sum(1))


def padded(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 20, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


def gradients(encoder, inputs, encode):
    encoder.zero_grad()
    embeddings = encode(inputs)
    queries, documents = embeddings.chunk(2)
    labels = torch.arange(len(queries)) % 4
    loss, _ = label_weighted_info_nce(queries, documents, labels, temperature=0.05, self_contrast=True)
    loss.backward()
    return embeddings.detach(), [
        parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None
    ]


def assert_equal_gradients(encoder, inputs, encode, chunk_rows):
    whole, expected = gradients(encoder, inputs, encode)
    parts, got = gradients(encoder, inputs, lambda inputs: encode_in_chunks(encode, inputs, chunk_rows))
    assert len(got) == len(expected) > 0
    assert (parts - whole).abs().max() <= 1e-12
    assert max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True)) <= 1e-10


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), chunk_rows=st.integers(1, 13))
def test_embeddings_and_gradients_equal_the_unchunked_ones(lengths, chunk_rows):
    encoder = ToyEncoder()
    assert_equal_gradients(encoder, padded(lengths * 2), encoder, chunk_rows)


def test_gradients_through_a_transformer():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(config, add_pooling_layer=False).double().train()

    def encode(inputs):
        return model(**inputs).last_hidden_state[:, 0]

    assert_equal_gradients(model, padded([3, 9, 1, 5, 2, 2, 7, 4]), encode, 3)


def test_chunks_are_cut_to_their_longest_row():
    encoder = ToyEncoder()
    with torch.no_grad():
        encode_in_chunks(encoder, padded([2, 9, 1, 5, 2]), 2)
    assert encoder.widths == [9, 2, 1]


def test_a_mask_with_holes_keeps_its_last_token():
    encoder = ToyEncoder()
    inputs = padded([4, 4])
    inputs["attention_mask"] = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        difference = encode_in_chunks(encoder, inputs, 1) - encoder(inputs)
    assert difference.abs().max() <= 1e-12
    assert encoder.widths == [4, 2, 4]


def test_inputs_of_one_value_a_row_are_cut_into_rows_only():
    inputs = padded([1, 3, 2]) | {"row": torch.arange(3)}

    def encode(inputs):
        return torch.stack([inputs["row"], inputs["attention_mask"].sum(1)], dim=1)

    with torch.no_grad():
        assert encode_in_chunks(encode, inputs, 2).tolist() == [[0, 1], [1, 3], [2, 2]]


def test_dropout_is_the_same_when_a_chunk_runs_again():
    encoder = ToyEncoder(dropout=0.5).train()
    encoded = encode_in_chunks(encoder, padded([4, 4, 4, 4]), 2)
    encoded.sum().backward()
    first, second, second_again, first_again = encoder.masks
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first, second)


def test_less_is_kept_for_the_backward_pass():
    def kept_bytes(encode):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        # Checkpointing keeps a chunk's inputs outside these hooks: the ids, which the batch holds anyway.
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encode(padded([9] * 16)).sum()
        return total

    encoder = ToyEncoder()
    whole = kept_bytes(encoder)
    assert kept_bytes(lambda inputs: encode_in_chunks(encoder, inputs, 4)) < whole / 4


@pytest.mark.parametrize(
    ("inputs", "chunk_rows"),
    [
        (padded([2, 3]), 0),
        ({"input_ids": torch.ones(2, 3)}, 1),
        ({"attention_mask": torch.ones(0, 3)}, 1),
    ],
)
def test_bad_input(inputs, chunk_rows):
    with pytest.raises(InputError, match="attention_mask with rows and chunks of at least 1"):
        encode_in_chunks(ToyEncoder(), inputs, chunk_rows)


def test_chunks_that_keep_their_activations_are_encoded_once():
    encoder = ToyEncoder()
    inputs = padded([2, 9, 1, 5, 2, 9])
    whole, expected = gradients(encoder, inputs, encoder)
    encoder.widths.clear()
    parts, got = gradients(
        encoder, inputs, lambda inputs: encode_in_chunks(encoder, inputs, 2, keep_activations=True)
    )
    assert encoder.widths == [9, 5, 2]
    assert (parts - whole).abs().max() <= 1e-12
    assert max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True)) <= 1e-10
