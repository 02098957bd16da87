"""Mini-batch aware regularisation."""

import torch

from recemb.models.regularization import Met, batch_aware_decay


def test_gradient_of_each_id_is_its_vector_over_its_count_however_often_it_occurs():
    table = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0], [2.0, 2.0]], requires_grad=True)
    counts = torch.tensor([100, 10, 4])
    ids = torch.tensor([1, 0, 1, 1, 3])  # 2 is not in the batch, 3 has no count
    batch_aware_decay([Met(ids, table[ids], counts)]).backward()
    expected = [[0.01, 0.02], [0.3, -0.1], [0.0, 0.0], [2.0, 2.0]]
    torch.testing.assert_close(table.grad, torch.tensor(expected))
