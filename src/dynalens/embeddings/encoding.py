"""One frozen encoder over one dataset."""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from dynalens.datasets import check_positions
from dynalens.dynamics import Array
from dynalens.embeddings.storage import EmbeddingFile
from dynalens.keys import IMAGE_KEYS
from dynalens.observation import device_of, floating_dtype, undisturbed

_TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_IMAGE_DIMENSIONS = 3  # integers with at least three dimensions are pixels, with fewer they are tokens


def embed(
    dataset: Any,
    encoder: nn.Module,
    *,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    path: str | Path | None = None,
    num_workers: int = 0,
    inputs: Callable[[Any], Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    progress: bool = True,
) -> Array:
    """Return the outputs of an encoder for all samples, in the order of the dataset, for ``suspects(embeddings=...)``.

    The encoder runs in evaluation mode and without gradients. It is left as it was, and so are the random generators.
    If you pass another ``device``, a copy of the encoder runs there. If you pass ``path``, rows are written to disk as
    they are computed. If the process is killed, the same call continues where it stopped, after it has compared the
    first batch with the file. If the file is complete, the call returns its content.

    Args:
        dataset: Map-style: a length, and samples by position. Samples are tensors, (input, label) tuples, or dicts with
            a key such as ``image``, ``pixel_values`` or ``input_ids``. Leave random augmentation out.
        encoder: A module that returns one vector for each sample of a batch, of shape ``(B, D)`` or ``(B, D, 1, 1)``.
        batch_size: Number of samples in one forward pass.
        device: Device to run on. Default: that of the encoder.
        path: An ``.npy`` file for the result, or None to keep it in memory.
        num_workers: Number of processes that read the dataset. 0: this process reads it.
        inputs: Callable(batch) that returns what the encoder takes: a tensor, a tuple of arguments or a dict of named
            arguments. Use it to resize or normalise images, for instance. Default: the batch, the first part of a
            tuple, the image of a dict, or the ids of tokens of a dict with their mask as named arguments.
        collate_fn: Callable(list of samples) -> batch, as of ``torch.utils.data.DataLoader``. Default: torch's.
        progress: Whether to show a progress bar.

    Returns:
        Shape ``(N, D)``, float32. With ``path`` it is read from the file as needed, and changes of it stay in memory.

    Raises:
        TypeError: If the dataset has no length and no samples by position, or the encoder is no module or gives no
            tensor.
        ValueError: If the encoder does not give one vector of finite numbers for each sample, or ``path`` holds
            embeddings of another dataset or encoder.

    Example:
        >>> images = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> data = [(image, label) for image, label in zip(images, [0, 1, 0])]
        >>> double = nn.Linear(2, 2, bias=False)
        >>> double.weight.data = 2 * torch.eye(2)
        >>> embed(data, double, batch_size=2, progress=False)
        array([[ 2.,  4.],
               [ 6.,  8.],
               [10., 12.]], dtype=float32)
    """
    check_positions(dataset)
    rows = EmbeddingFile(None if path is None else Path(path), len(dataset))
    model = _encoder_on(encoder, device)
    loading = {"batch_size": batch_size, "num_workers": num_workers, "collate_fn": collate_fn}
    with undisturbed(model), torch.no_grad():
        if rows.row_count:
            first_batch = Subset(dataset, range(min(batch_size, len(dataset))))
            rows.check(next(_vectors(first_batch, 0, model, inputs, loading)))
        remainder = Subset(dataset, range(rows.row_count, len(dataset)))
        with _bar(len(dataset), rows.row_count, progress) as bar:
            for vectors in _vectors(remainder, rows.row_count, model, inputs, loading):
                rows.write(vectors)
                bar.update(len(vectors))
    return rows.whole_array()


def encoder_inputs(batch: Any) -> Any:
    """Return the part of a batch that an encoder takes, without the label. Ids of tokens come with their mask.

    Raises:
        ValueError: If a dict has none of the usual keys.

    Example:
        >>> encoder_inputs([0.5, 3]), encoder_inputs({"label": 3, "image": 0.5}), encoder_inputs((("one", "two"), 3))
        (0.5, 0.5, ['one', 'two'])
    """
    if isinstance(batch, Mapping):
        tokens = {key: batch[key] for key in _TOKEN_KEYS if key in batch}
        if "input_ids" in tokens:
            return tokens
        keys = [key for key in IMAGE_KEYS if key in batch]
        if not keys:
            raise ValueError(
                f"Expected a batch with one of the keys {', '.join(IMAGE_KEYS)} or input_ids, got {list(batch)}. Pass "
                "`inputs=lambda batch: batch[<key>]`."
            )
        return batch[keys[0]]
    if isinstance(batch, list | tuple) and batch:
        return list(batch) if isinstance(batch[0], str) else encoder_inputs(batch[0])
    return batch


def _vectors(
    part: Subset[Any], start: int, model: nn.Module, inputs: Callable[[Any], Any] | None, loading: dict[str, Any]
) -> Iterator[Array]:
    """Yield the checked vectors of each batch of a part of the dataset."""
    device = device_of(model)
    if not len(part):
        return
    for batch in DataLoader(part, shuffle=False, **loading):
        arguments = (inputs or encoder_inputs)(batch)
        output = _output_of(model, _to_device(arguments, device, model))
        batch_size = min(loading["batch_size"], len(part) - (start - part.indices[0]))
        yield _as_rows(output, batch_size, start)
        start += batch_size


def _output_of(model: nn.Module, arguments: Any) -> Any:
    if isinstance(arguments, Mapping):
        return model(**arguments)
    return model(*arguments) if isinstance(arguments, tuple) else model(arguments)


def _to_device(arguments: Any, device: torch.device, model: nn.Module) -> Any:
    """Return the arguments on the device, floating ones in the encoder's type."""
    if isinstance(arguments, Mapping):
        return {key: _to_device(value, device, model) for key, value in arguments.items()}
    if isinstance(arguments, tuple):
        return tuple(_to_device(value, device, model) for value in arguments)
    if not isinstance(arguments, Tensor):
        return arguments
    if arguments.dtype is torch.uint8 and arguments.ndim >= _IMAGE_DIMENSIONS:
        raise ValueError(
            f"Expected floating inputs of the encoder, got uint8 of shape {tuple(arguments.shape)}. Pass `inputs=` to "
            "scale the pixels as in the encoder's training, for instance `lambda batch: batch[0] / 255`."
        )
    dtype = floating_dtype(model, arguments) if arguments.is_floating_point() else arguments.dtype
    return arguments.to(device, dtype)


def _as_rows(output: Any, number: int, start: int) -> Array:
    """Return the encoder's output as rows (B, D), float32, on the CPU."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"Expected `encoder` to give a tensor, got a {type(output).__name__}. Wrap it in a module that returns one "
            "vector for each sample, for instance its pooled output."
        )
    flat = output.flatten(1) if output.ndim > 2 and output[0].numel() == output.shape[1] else output
    if flat.ndim != 2 or len(flat) != number:
        raise ValueError(
            f"Expected `encoder` to give one vector for each of {number} samples, got shape {tuple(output.shape)}. "
            "Wrap it in a module that pools over positions, and let `collate_fn` keep every sample."
        )
    vectors = flat.float().cpu()
    bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"Expected `encoder` to give finite numbers, got NaN or infinity for sample {start + int(bad[0])}. Look at "
            "this sample, or run the encoder in float32."
        )
    rows: Array = vectors.numpy()
    return rows


def _encoder_on(encoder: nn.Module, device: str | torch.device | None) -> nn.Module:
    """Return the encoder, or a copy of it on another device."""
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"Expected `encoder` to be a torch.nn.Module, got a {type(encoder).__name__}. Wrap it in a module whose "
            "`forward` calls it, so that its device and its evaluation mode are known."
        )
    tensors = (*encoder.parameters(), *encoder.buffers())
    if device is None or all(tensor.device == torch.device(device) for tensor in tensors):
        return encoder
    return copy.deepcopy(encoder).to(device)


def _bar(total: int, initial: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, desc="embedding", unit="samples", disable=not progress)
