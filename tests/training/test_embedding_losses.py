import torch

from openhart.training.generator.hart.embedding_losses import EmbeddingAlignment, codes_before
from openhart.training.generator.hart.settings import EmbeddingLosses

WIDTH, DIM, DEPTH = 16, 6, 4


def test_the_code_before_lies_under_each_place():
    codes = [torch.tensor([[7]]), torch.tensor([[1, 2, 3, 4]]), torch.arange(9)[None]]
    found = codes_before(codes, ((1, 1), (2, 2), (3, 3)))
    assert [part.tolist() for part in found] == [[[7] * 4], [[1, 1, 2, 1, 1, 2, 3, 3, 4]]]
    assert codes_before(codes[:1], ((1, 1),)) == []


def test_hidden_states_learn_their_codes_embeddings():
    torch.manual_seed(0)
    codebook = torch.randn(10, DIM)
    alignment = EmbeddingAlignment(WIDTH, DIM, DEPTH, EmbeddingLosses(hidden=64))
    target, current = torch.randint(10, (2, 8)), torch.randint(10, (2, 7))
    observed = alignment.observer()
    for index in range(DEPTH):
        codes = current if index == 0 else target
        embedded = torch.nn.functional.pad(codebook[codes], (0, WIDTH - DIM, 12 - codes.shape[1], 0))
        observed(index, embedded + 0.01 * index)  # only the last positions count
    assert sorted(observed.states) == [0, 2]
    optimizer = torch.optim.Adam(alignment.parameters(), 1e-2)
    before = alignment(observed, current, target, codebook)
    for _ in range(100):
        losses = alignment(observed, current, target, codebook)
        optimizer.zero_grad()
        alignment.weighted(losses).backward()
        optimizer.step()
    assert losses.keys() == {"current", "target"}
    assert all(losses[name] < 0.1 * before[name] for name in losses)
    torch.testing.assert_close(alignment.weighted(losses), losses["current"] + losses["target"])


def test_a_loss_without_weight_is_not_made():
    alignment = EmbeddingAlignment(WIDTH, DIM, DEPTH, EmbeddingLosses(current=0, target=2.0, depth=1.0))
    observed = alignment.observer()
    for index in range(DEPTH):
        observed(index, torch.randn(1, 5, WIDTH))
    found = alignment(observed, torch.zeros(1, 4).long(), torch.zeros(1, 5).long(), torch.randn(3, DIM))
    assert found.keys() == {"target"}
    torch.testing.assert_close(alignment.weighted(found), 2 * found["target"])
    assert DEPTH - 1 in observed.states
