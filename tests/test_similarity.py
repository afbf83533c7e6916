"""Similar samples and prototypes: against slow definitions, and where people see them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynalens import Record, TrainingDynamics, prototypes, similar_samples
from dynalens.embeddings import mmd_critic
from dynalens.embeddings.neighbours import similar_rows
from dynalens.record import RecordMeta
from dynalens.units import regression


def some_rows(n: int = 14, seed: int = 0) -> Tensor:
    """Two clusters and a few in between, not of length 1."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[4.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, -2.0]])
    return centres[torch.randint(0, 3, (n,), generator=generator)] + torch.randn(n, 3, generator=generator)


def kernel_of(rows: Tensor) -> list[list[float]]:
    """By the definition, with the median of all pairs' squared distances."""
    units = [row / row.norm() for row in rows.double()]
    squared = sorted(float((a - b).square().sum()) for a, b in itertools.combinations(units, 2))
    scale = squared[(len(squared) - 1) // 2]  # torch's median is the lower of two middle ones
    return [[math.exp(-float((a - b).square().sum()) / scale) for b in units] for a in units]


def discrepancy(kernel: list[list[float]], chosen: list[int]) -> float:
    """Squared maximum mean discrepancy between all rows and the chosen ones."""
    n, m = len(kernel), len(chosen)
    inner = sum(kernel[i][j] for i in range(n) for j in range(n)) / n**2
    cross = sum(kernel[i][j] for i in range(n) for j in chosen) / (n * m)
    return inner - 2 * cross + sum(kernel[i][j] for i in chosen for j in chosen) / m**2


def slow_prototypes(kernel: list[list[float]], number: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(number):
        left = [i for i in range(len(kernel)) if i not in chosen]
        chosen.append(min(left, key=lambda i: discrepancy(kernel, [*chosen, i])))
    return chosen


def slow_criticisms(kernel: list[list[float]], standing: list[int], number: int) -> list[int]:
    n, chosen = len(kernel), list[int]()

    def worth(criticisms: list[int]) -> float:
        witness = sum(
            abs(sum(kernel[i][c] for i in range(n)) / n - sum(kernel[j][c] for j in standing) / len(standing))
            for c in criticisms
        )
        return witness + float(np.linalg.slogdet(np.array(kernel)[np.ix_(criticisms, criticisms)])[1])

    for _ in range(number):
        left = [i for i in range(n) if i not in chosen and i not in standing]
        chosen.append(max(left, key=lambda i: worth([*chosen, i])))
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_prototypes_make_the_discrepancy_smallest_and_criticisms_are_where_it_is_left(seed: int) -> None:
    rows = some_rows(seed=seed)
    kernel = kernel_of(rows)
    result = mmd_critic(rows, 4, 3)
    assert result.prototypes == slow_prototypes(kernel, 4)
    assert result.criticisms == slow_criticisms(kernel, result.prototypes, 3)


def test_representatives_of_few_equal_or_no_rows() -> None:
    zeros, same = torch.zeros(3, 2), torch.ones(3, 2)
    assert mmd_critic(zeros, 2, 2).prototypes == []
    assert sorted(mmd_critic(same, 5, 2).prototypes) == [0, 1, 2]
    assert mmd_critic(same, 1, 2).criticisms == [1]  # the third is the second once more
    assert mmd_critic(torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]), 2, 2).prototypes == [0]
    with pytest.raises(ValueError, match="Expected `prototypes` and `criticisms` of at least 0"):
        mmd_critic(same, -1, 2)
    with pytest.raises(ValueError, match="a positive `gamma`"):
        mmd_critic(same, 1, 2, gamma=0.0)


def test_blocks_of_the_kernel_give_the_same_prototypes(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynalens.embeddings import prototypes as module

    whole = mmd_critic(some_rows(), 3, 3)
    monkeypatch.setattr(module, "_BLOCK", 14 * 5)
    assert mmd_critic(some_rows(), 3, 3) == whole


def test_similar_rows_are_the_nearest_of_each_class_by_cosine() -> None:
    x, labels = some_rows(30), torch.arange(30) % 3
    x[4] = 0  # near to none
    rows, suggested = np.array([0, 4, 7, 8]), np.array([1, 2, 2, -1])
    similar = similar_rows(x, labels.numpy(), rows, suggested, k=4)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    for place, row in enumerate(rows.tolist()):
        for near, label in ((similar.label_rows, labels[row].item()), (similar.suggestion_rows, suggested[place])):
            others = [i for i in range(30) if labels[i] == label and i not in (row, 4)]
            expected = sorted(others, key=lambda i: -cosine[row, i])[:4] if row != 4 else []
            assert [i for i in near[place].tolist() if i >= 0] == expected


def record_of(logits: Tensor, labels: Tensor, ids: list[str] | None = None) -> Record:
    dynamics = TrainingDynamics(len(labels))
    dynamics.update(list(range(len(labels))), logits, labels)
    dynamics.end_epoch(0)
    names = None if ids is None else np.array(ids)
    meta = RecordMeta(len(labels), [0])
    return Record(statistics=dynamics.compute(), meta=meta, root_index=np.arange(len(labels)), sample_ids=names)


def test_similar_samples_and_prototypes_are_named_by_their_ids() -> None:
    logits, labels = some_rows(12)[:, :2], torch.arange(12) % 2
    ids = [f"image {i}" for i in range(12)]
    by_position = similar_samples(record_of(logits, labels), logits, 3, k=2)
    by_id = similar_samples(record_of(logits, labels, ids), dict(zip(ids, logits.numpy(), strict=True)), 3, k=2)
    assert by_id.index.tolist() == [ids[i] for i in by_position.index]
    for name in ("similar_given", "similar_suggested"):
        assert by_id[name].tolist() == [[ids[i] for i in row] for row in by_position[name]]
    table = prototypes(record_of(logits, labels, ids), dict(zip(ids, logits.numpy(), strict=True)), 2)
    assert table.groupby(["label", "kind"]).size().tolist() == [2] * 8
    ones = [ids[i] for i in range(1, 12, 2)]
    assert set(table.loc[table["label"] == 1, "sample_id"]) <= set(ones)
    margin = logits[:, 0] - logits[:, 1]
    hardest = table[(table["label"] == 0) & (table["kind"] == "hardest")]["sample_id"].tolist()
    assert hardest == [ids[i] for i in sorted(range(0, 12, 2), key=lambda i: float(margin[i]))[:2]]


@pytest.mark.parametrize("function", [similar_samples, prototypes])
def test_samples_with_numbers_are_refused(function: Any) -> None:
    dynamics, targets = TrainingDynamics(4), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    dynamics.update_units(range(4), regression(torch.ones(4, 1), targets, torch.ones(4, 1)))
    dynamics.end_epoch(0)
    record = Record(statistics=dynamics.compute(), meta=RecordMeta(4, [0]), root_index=np.arange(4))
    with pytest.raises(ValueError, match=r"Expected a record of one label .* of a regression\. Leave"):
        function(record, torch.ones(4, 2))


@pytest.mark.parametrize("function", [similar_samples, prototypes])
def test_embeddings_of_other_samples_are_refused(function: Any) -> None:
    record = record_of(some_rows(6)[:, :2], torch.arange(6) % 2)
    with pytest.raises(ValueError, match="Expected `embeddings` to have a row for each of the 6 samples"):
        function(record, torch.ones(5, 2))
    with pytest.raises(ValueError, match="Expected `n` to be at least 1"):
        function(record, torch.ones(6, 2), 0)
