"""An encoder over a dataset: order, what it leaves behind, going on after a kill, errors."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from dynalens import IndexedDataset, embed

IMAGES = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """Vectors (B, 5), with what evaluation mode must switch off and a buffer that a careless pass would change."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Dropout())

    def forward(self, x: Tensor) -> Tensor:
        vectors: Tensor = self.net(x)
        return vectors


def expected(encoder: nn.Module) -> Any:
    encoder.eval()
    with torch.no_grad():
        return np.stack([encoder(image[None])[0].numpy() for image in IMAGES])


class Texts(nn.Module):
    def forward(self, texts: list[str]) -> Tensor:
        return torch.tensor([[len(text), 1.0] for text in texts])


class Masked(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (input_ids * attention_mask).float()


@pytest.mark.parametrize(
    "dataset",
    [
        list(IMAGES),
        [(image, 1) for image in IMAGES],
        [{"label": 1, "pixel_values": image} for image in IMAGES],
        IndexedDataset([(image, 1) for image in IMAGES]),
        [({"image": image}, 1) for image in IMAGES],
    ],
    ids=["tensors", "tuples", "dicts", "indexed", "dicts in tuples"],
)
def test_rows_stand_in_the_order_of_the_dataset(dataset: Any) -> None:
    rows = embed(dataset, Encoder(), batch_size=4, progress=False)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected(Encoder()), rtol=1e-5, atol=1e-6)


def test_inputs_prepare_the_batch() -> None:
    data = [{"pixels": (image * 10).round().to(torch.uint8), "y": 0} for image in IMAGES]
    rows = embed(data, nn.Flatten(), inputs=lambda batch: batch["pixels"] / 255, progress=False)
    np.testing.assert_allclose(rows, (IMAGES * 10).round().to(torch.uint8).flatten(1) / 255)
    pair = torch.ones(10, 1), torch.ones(10, 1)
    assert embed(data, nn.Bilinear(1, 1, 3), inputs=lambda batch: pair, progress=False).shape == (10, 3)


def test_texts_and_tokens_are_passed_on_with_their_mask() -> None:
    assert embed([("a", 0), ("bcd", 1)], Texts(), progress=False).tolist() == [[1, 1], [3, 1]]
    assert embed(["a", "bcd"], Texts(), progress=False).tolist() == [[1, 1], [3, 1]]
    tokens = [{"input_ids": torch.tensor([3, 4]), "attention_mask": torch.tensor([1, 0]), "label": 0}]
    assert embed(tokens, Masked(), progress=False).tolist() == [[3, 0]]


def test_outputs_with_one_position_are_vectors_and_half_precision_works() -> None:
    pooled = nn.AdaptiveAvgPool2d(1)
    np.testing.assert_allclose(embed(list(IMAGES), pooled, progress=False), IMAGES.mean((2, 3)), atol=1e-6)
    half = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).to(torch.bfloat16)
    assert embed(list(IMAGES), half, progress=False).dtype == np.float32


@pytest.mark.parametrize("device", [None, "cpu", "meta"])
def test_the_encoder_and_the_random_numbers_are_left_as_they_were(device: str | None) -> None:
    encoder = Encoder()
    encoder.net[1].weight.grad = torch.ones(5, 48)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    if device == "meta":
        with pytest.raises((RuntimeError, NotImplementedError)):  # a copy is there, which has no numbers to give
            embed(list(IMAGES), encoder, device=device, progress=False)
    else:
        rows = embed(list(IMAGES), encoder, device=device, progress=False)
        assert not torch.from_numpy(rows).requires_grad
    assert all(module.training for module in encoder.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(encoder.net[1].weight.grad, torch.ones(5, 48))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


class Killed(Dataset[Any]):
    """Stops at a sample, as a kill does; notes which samples were read."""

    def __init__(self, at: int) -> None:
        self.at, self.read = at, list[int]()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Tensor:
        if index == self.at:
            raise KeyboardInterrupt
        self.read.append(index)
        return IMAGES[index]


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(Killed(7), Encoder(), batch_size=2, path=path, progress=False)
    assert not path.exists()  # no half array is taken for a whole one
    rest = Killed(-1)
    rows = embed(rest, Encoder(), batch_size=3, path=path, progress=False)
    assert rest.read == [0, 1, 2, 6, 7, 8, 9]  # the first batch is compared
    np.testing.assert_allclose(rows, expected(Encoder()), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.load(path), rows)
    assert [each.name for each in path.parent.iterdir()] == ["rows.npy"]
    again = Killed(-1)
    np.testing.assert_array_equal(embed(again, Encoder(), batch_size=3, path=path, progress=False), rows)
    assert again.read == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be asked for on this system")
def test_a_full_disk_is_an_error_after_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    data = Killed(-1)
    with pytest.raises(OSError, match=r"No space left on device: '.*rows\.npy\.part'"):
        embed(data, Encoder(), batch_size=2, path=tmp_path / "rows.npy", progress=False)
    assert data.read == [0, 1]  # from which the length of the rows is known
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_be_asked_for_room_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    rows = embed(list(IMAGES), Encoder(), path=tmp_path / "rows.npy", progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"done": -1}', '{"done": 11}', '{"done": "2"}', '{"done": 2.5}'])
def test_a_number_of_rows_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(Killed(7), Encoder(), batch_size=2, path=path, progress=False)
    (tmp_path / "rows.npy.part.json").write_text(content)
    with pytest.raises(ValueError, match=r"Expected the number of rows .* in .*rows\.npy\.part\.json, got something"):
        embed(list(IMAGES), Encoder(), path=path, progress=False)


def test_a_number_of_rows_of_a_part_that_is_gone_is_none_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "rows.npy"
    (tmp_path / "rows.npy.part.json").write_text('{"done": 10}')  # as a kill between the last two steps leaves it
    monkeypatch.setattr("dynalens.embeddings.storage._take_room", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(list(IMAGES), Encoder(), path=path, progress=False)
    monkeypatch.undo()
    rows = embed(list(IMAGES), Encoder(), path=path, progress=False)
    np.testing.assert_allclose(rows, expected(Encoder()), rtol=1e-5, atol=1e-6)


def test_a_file_of_another_dataset_or_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    embed(list(IMAGES), Encoder(), path=path, progress=False)
    wanted = "Expected `path` to be a new file or one of "
    with pytest.raises(ValueError, match=wanted + r"the 9 samples of this dataset, got shape \(10, 5\)"):
        embed(list(IMAGES[:9]), Encoder(), path=path, progress=False)
    for data, encoder in ((IMAGES, Encoder(1)), (IMAGES.flip(0), Encoder()), (IMAGES, nn.Flatten())):
        with pytest.raises(
            ValueError, match=wanted + "this dataset by this encoder, got other embeddings in .*rows.npy"
        ):
            embed(list(data), encoder, path=path, progress=False)
    path.write_text("no array")
    with pytest.raises(ValueError, match=r"or one that `embed` has written, got .*, which is none"):
        embed(list(IMAGES), Encoder(), path=path, progress=False)
    with pytest.raises(KeyboardInterrupt):
        embed(Killed(7), Encoder(), batch_size=2, path=tmp_path / "part.npy", progress=False)
    with pytest.raises(ValueError, match=r"got other embeddings in .*part\.npy\.part\. Delete that file"):
        embed(list(IMAGES), Encoder(1), path=tmp_path / "part.npy", progress=False)


def test_a_bar_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    embed(list(IMAGES), nn.Flatten(), progress=False)
    assert capsys.readouterr().err == ""
    embed(list(IMAGES), nn.Flatten())
    assert "embedding: 100%" in capsys.readouterr().err


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Wrong(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(
    ("dataset", "encoder", "error", "message"),
    [
        (Stream(), nn.Flatten(), TypeError, "map-style, with samples by position and a length above 0, got Stream"),
        ([], nn.Flatten(), TypeError, "length above 0, got list"),
        ([{"pixels": image} for image in IMAGES], nn.Flatten(), ValueError, r"one of the keys image.*got \['pixels'\]"),
        (list((255 * IMAGES).byte()), nn.Flatten(), ValueError, r"got uint8 of shape \(10, 3, 4, 4\).*`inputs=`"),
        (list(IMAGES), nn.Identity(), ValueError, r"one vector for each of 10 samples, got shape \(10, 3, 4, 4\)"),
        (list(IMAGES), Wrong(torch.ones(9, 2)), ValueError, r"for each of 10 samples, got shape \(9, 2\)"),
        (list(IMAGES), Wrong((torch.ones(10, 2),)), TypeError, "Expected `encoder` to give a tensor, got a tuple"),
        (list(IMAGES), Wrong(torch.full((10, 2), torch.nan)), ValueError, "got NaN or infinity for sample 0"),
        (list(IMAGES), nn.Flatten().forward, TypeError, "`encoder` to be a torch.nn.Module, got a method"),
    ],
)
def test_the_error_names_the_input_that_cannot_be_embedded(
    dataset: Any, encoder: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        embed(dataset, encoder, progress=False)
