"""What a layer computes: filters, maps, the strongest inputs and activation maximisation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, TensorDataset

from dynalens import IndexedDataset, LayerMonitor, feature_maps, first_layer_weights, maximise_activation
from dynalens.features import TopInputs, channel_activations
from dynalens.features.maximisation import likeness, random_views, roughness
from dynalens.logs import layer_pictures
from dynalens.pictures import filters_grid, labelled_grid, maps_grid, small_copies
from toys import SmallCNN
from training import Classifier, K, N, dataset, fit, images, in_order, labels, loader


def test_the_first_convolution_is_found_and_others_by_name() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Conv2d(3, 4, 5), nn.Conv2d(4, 2, 1))
    name, weights = first_layer_weights(model)
    assert name == "1"
    assert torch.equal(weights, model.state_dict()["1.weight"])
    assert first_layer_weights(nn.Sequential(nn.ReLU(), model))[0] == "1.1"
    assert first_layer_weights(model, "2")[1].shape == (2, 4, 1, 1)
    with pytest.raises(ValueError, match=r"name a convolution of Sequential, got '0'. Its convolutions are: 1, 2"):
        first_layer_weights(model, "0")
    with pytest.raises(ValueError, match=r"got None. Its convolutions are: none"):
        first_layer_weights(nn.Sequential(nn.Linear(1, 1)))


def test_reading_filters_leaves_a_parametrization_that_learns_from_each_reading_as_it_is() -> None:
    """Spectral norm goes on with its power iteration wherever ``weight`` is read in training mode."""
    torch.manual_seed(0)
    convolution = nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 4, 3)).train()
    before = {name: value.clone() for name, value in convolution.state_dict().items()}
    u, v = (before[f"parametrizations.weight.0.{name}"] for name in ("_u", "_v"))
    matrix = before["parametrizations.weight.original"].flatten(1)
    _, weights = first_layer_weights(nn.Sequential(convolution))
    torch.testing.assert_close(weights.flatten(1), matrix / (u @ matrix @ v))
    assert all(torch.equal(value, before[name]) for name, value in convolution.state_dict().items())


def test_maps_are_those_of_evaluation_mode_and_the_model_is_as_before() -> None:
    model = SmallCNN().train()
    x = torch.randn(3, 1, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = feature_maps(model, x, "norm")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = model.eval().norm(model.conv(x)).relu()  # the activation after it works in place
    torch.testing.assert_close(maps, expected)
    with pytest.raises(ValueError, match=r"map for each channel.*got \(3, 3\) of head"):
        feature_maps(model, x, "head")
    with pytest.raises(ValueError, match=r"as images \(2, 1, 4, 4\) have, got \(2, 1, 16\) of 0"):  # as of tokens
        feature_maps(nn.Sequential(nn.Flatten(2), nn.Flatten()), torch.randn(2, 1, 4, 4), "0")
    with pytest.raises(ValueError, match=r"Expected `layer` to name a layer of SmallCNN, got 'nrm'.*norm"):
        feature_maps(model, x, "nrm")


class WithChannelsLast(nn.Module):
    """The same network as ``first``, with channels last from its convolution on."""

    def __init__(self, first: SmallCNN) -> None:
        super().__init__()
        self.first, self.norm = first, nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.first.conv(x).permute(0, 2, 3, 1))
        out: Tensor = self.first.head(maps.mean(dim=(1, 2)))
        return out


def test_channels_that_come_last_have_maps_and_maximisers() -> None:
    torch.manual_seed(0)
    model = WithChannelsLast(SmallCNN()).eval()
    x = images()
    expected = model.norm(model.first.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).detach()
    torch.testing.assert_close(feature_maps(model, x, "norm"), expected)
    low, high = -torch.ones(1), torch.ones(1)
    (brightest,) = maximise_activation(model, [3], x.shape[1:], layer="norm", low=low, high=high, steps=30)
    mean = model.norm(model.first.conv(brightest[None]).permute(0, 2, 3, 1))[..., 3].mean()
    assert mean > expected[:, 3].mean(dim=(1, 2)).max()


@pytest.mark.parametrize("split", [1, 3, 7, 20])
def test_the_strongest_inputs_do_not_depend_on_the_batches(split: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x, activations = torch.randn(20, 1, 2, 2, generator=rng), torch.randn(20, 4, generator=rng)
    top = TopInputs([2, 0], k=3)
    for at in range(0, 20, split):
        top.offer(x[at : at + split], activations[at : at + split])
    for row, channel in enumerate([2, 0]):
        order = sorted(range(20), key=lambda i, c=channel: -float(activations[i, c]))[:3]  # type: ignore[misc]
        assert torch.equal(top.activations[row], activations[order, channel])
        assert torch.equal(top.images[row], x[order])


def test_fewer_inputs_than_asked_for_nan_and_other_sizes() -> None:
    top = TopInputs([0], k=3)
    top.offer(torch.ones(2, 1, 1, 1), torch.tensor([[torch.nan], [1.0]]))
    top.offer(torch.ones(1, 1, 2, 2), torch.tensor([[9.0]]))
    assert top.activations.tolist() == [[1.0, -torch.inf, -torch.inf]]
    with FakeTensorMode():  # reading a value raises here
        top = TopInputs([0, 1], k=2)
        for _ in range(2):
            top.offer(small_copies(torch.randn(3, 1, 200, 100)), channel_activations(torch.randn(3, 2, 4, 4)))


def test_a_bright_spot_that_a_channel_looks_for_appears() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(2 * 256, 2))
    kernel = torch.tensor([[-1.0, 2, -1]] * 3)  # upright lines
    model[0].weight.data.copy_(torch.stack([kernel, kernel.T])[:, None])  # type: ignore[operator]  # a tensor
    generators = torch.get_rng_state()
    relu = nn.Sequential(model[0], nn.ReLU())
    upright, level = maximise_activation(relu, [0, 1], (1, 16, 16), layer="1")
    assert torch.equal(torch.get_rng_state(), generators)
    down, across = ((x.diff(dim=d).abs().mean()) for x in (upright,) for d in (1, 2))
    assert across > 2 * down
    down, across = ((x.diff(dim=d).abs().mean()) for x in (level,) for d in (1, 2))
    assert down > 2 * across
    again = maximise_activation(relu, [0, 1], (1, 16, 16), layer="1")
    assert torch.equal(again, torch.stack([upright, level]))
    assert not torch.equal(again, maximise_activation(relu, [0, 1], (1, 16, 16), layer="1", seed=1))


def test_an_image_stays_in_its_range_and_raises_its_class() -> None:
    torch.manual_seed(0)
    model = SmallCNN(channels=3)
    low, high = torch.tensor([-2.0, -1.0, 0.0]), torch.tensor([2.0, 1.0, 0.5])
    found = maximise_activation(model, [0, 2], (3, 12, 10), low=low, high=high, steps=60)
    assert found.shape == (2, 3, 12, 10)
    assert (found.amin(dim=(0, 2, 3)) >= low).all()
    assert (found.amax(dim=(0, 2, 3)) <= high).all()
    start = maximise_activation(model, [0, 2], (3, 12, 10), low=low, high=high, steps=1)
    model.eval()
    with torch.no_grad():
        rise = model(found)[[0, 1], [0, 2]] - model(start)[[0, 1], [0, 2]]
    assert (rise > 0).all()
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match=r"Expected units in \[0, 3\) of the logits, got \[3\]"):
        maximise_activation(model, [3], (3, 12, 10))
    with pytest.raises(ValueError, match=r"channels, height and width.*got \(2, 12\).*Pass for instance `units"):
        maximise_activation(model, [0], (2, 12))


def tilted() -> nn.Sequential:
    """Random filters, whose channels answer to several patterns."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).eval()


def test_a_penalty_makes_images_smoother_at_little_cost() -> None:
    plain, smooth = (
        maximise_activation(tilted(), [0, 1], (1, 16, 16), layer="2", steps=60, frequency_penalty=weight)
        for weight in (0.0, 1.0)
    )
    assert (roughness(smooth) < roughness(plain)).all()


def test_variants_of_a_unit_are_less_alike_where_they_should_be() -> None:
    def alike(weight: float) -> Tensor:
        found = maximise_activation(tilted(), [1, 2], (1, 16, 16), layer="2", steps=60, variants=3, diversity=weight)
        assert found.shape == (6, 1, 16, 16)
        return likeness(tilted()[:3](found).detach(), 3)

    assert (alike(1.0) < alike(0.0)).all()


def test_images_that_are_not_moved_while_made_are_stronger_where_they_stand_and_weaker_when_moved() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 1, bias=False), nn.Linear(1, 2)).eval()
    still, moved = (maximise_activation(model, [0], (1, 16, 16), steps=80, robust=robust) for robust in (False, True))
    with torch.no_grad():
        shaken = [
            random_views(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0)) for image in (still, moved)
        ]
        here = [float(model(image)[0, 0]) for image in (still, moved)]
        there = [float(model(images)[:, 0].mean()) for images in shaken]
    assert here[0] > here[1]
    assert there[1] > there[0]


def test_likeness_and_roughness_are_their_formulas_written_with_loops() -> None:
    maps = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for unit, found in enumerate(likeness(maps, 3)):
        grams = [maps[3 * unit + i].flatten(1) @ maps[3 * unit + i].flatten(1).T for i in range(3)]
        pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
        expected = [(grams[i] * grams[j]).sum() / grams[i].norm() / grams[j].norm() for i, j in pairs]
        torch.testing.assert_close(found, torch.stack(expected).mean())
    noise = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0))
    assert float(roughness(noise)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": 0}, "Expected `variants` to be at least 1"),
        ({"frequency_penalty": -1.0}, "`frequency_penalty` at least 0, got 1, 0.0 and -1.0"),
        ({"diversity": 0.5, "layer": "0"}, "several `variants` and a `diversity_layer` with `diversity`, got 1 and 0"),
        ({"diversity": 0.5, "variants": 2}, "with `diversity`, got 2 and None"),
    ],
)
def test_terms_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maximise_activation(tilted(), [0], (1, 16, 16), **options)


def test_an_image_is_rotated_by_five_degrees_scaled_by_a_tenth_and_shifted_by_a_sixteenth_at_most() -> None:
    x = torch.zeros(200, 1, 65, 33)
    x[:, 0, 32, 16] = 1  # the centre moves with the shift alone
    moved = random_views(x, torch.Generator().manual_seed(0))[:, 0]
    weight = moved.sum(dim=(1, 2))
    down = (moved.sum(2) * torch.arange(65)).sum(1) / weight - 32
    across = (moved.sum(1) * torch.arange(33)).sum(1) / weight - 16
    assert 3.5 < down.abs().max() <= 65 / 16 + 0.5
    assert 1.5 < across.abs().max() <= 33 / 16 + 0.5
    constant = torch.full((2, 1, 8, 8), 0.7)
    torch.testing.assert_close(random_views(constant, torch.Generator().manual_seed(0)), constant)


def test_the_maps_of_series_are_on_the_scale_of_all_inputs() -> None:
    maps = np.stack([np.linspace(0, 0.1, 50), np.linspace(0, 1, 50)])[:, None]
    grid = np.asarray(maps_grid([np.zeros((1, 50))] * 2, maps, [0], "title"))
    rows, columns = np.nonzero((grid < 60).all(axis=2))
    rows = rows[(columns > 95) & (rows > 70)]  # of the lines, beside the inputs
    assert np.ptp(rows[rows < 145]) < 15 < 60 < np.ptp(rows[rows > 145])


def test_only_images_are_maximised(tmp_path: Path) -> None:
    model = Classifier()
    model.net = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 34, K))
    series = DataLoader(TensorDataset(images()[:, :, :, :, None], labels()), batch_size=N)
    monitor = LayerMonitor(layer="net.1", maximise="channels", maximise_steps=2)
    with pytest.warns(UserWarning, match=r"images \(N, C, H, W\) for `maximise`, got .* Leave `maximise` out"):
        fit(tmp_path, monitor, model=model, data=lambda: series, max_epochs=1)


def test_pictures_have_the_width_of_a_card() -> None:
    for weights in (torch.randn(70, 3, 5, 5), torch.randn(3, 1, 3, 3, 3), torch.zeros(2, 2, 7)):
        assert filters_grid(weights, "title").width == 700
    rgb = np.zeros((4, 6, 3), np.uint8)
    for maps in (np.random.rand(2, 9, 4, 4), np.full((2, 9, 4), np.nan), np.random.rand(2, 9, 2, 4, 4)):
        assert maps_grid([rgb, rgb], maps, range(9), "title").width == 700
    pixels = np.asarray(labelled_grid([(["a", "b"], [rgb + 255, rgb])], "title"))
    assert (pixels[110:150, 20:80] == 255).all()  # the first cell is white, the second black
    assert (pixels[120:140, 110:160] == 0).all()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each picture was drawn of."""
    noted: dict[str, list[Any]] = {}
    for name in ("write_filters", "write_maps", "write_top_inputs", "write_maximised"):
        real = getattr(layer_pictures.LayerPictures, name)

        def note(self: Any, *args: Any, name: str = name, real: Any = real, **options: Any) -> None:
            noted.setdefault(name, []).append(args)
            real(self, *args, **options)

        monkeypatch.setattr(layer_pictures.LayerPictures, name, note)
    return noted


def everything(**options: Any) -> LayerMonitor:
    given: dict[str, Any] = {"layer": "net.0", "weights": True, "feature_maps": 2, "top_inputs": 3}
    given |= {"maximise": "channels", "maximise_steps": 2, "max_overhead": None, "on_error": "raise"}
    return LayerMonitor(**(given | options))


def strongest(model: Classifier, x: Tensor, channel: int) -> Tensor:
    with torch.no_grad():
        values: Tensor = model.net[0](x / N)[:, channel].amax(dim=(1, 2))
    return values.sort(descending=True).values[:3]


def test_the_strongest_inputs_are_those_of_the_validation(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    model = fit(tmp_path, everything(), val=in_order)
    top = drawn["write_top_inputs"][-1][0]
    assert top.channels == [0, 1, 2, 3]  # the first seven, if there were
    for channel in range(4):
        torch.testing.assert_close(top.activations[channel], strongest(model, images(), channel))
    torch.testing.assert_close(
        drawn["write_maps"][-1][1], model.net[0](images()[:2]).detach()
    )  # of the first validation batch
    assert torch.equal(drawn["write_filters"][-1][1], model.net[0].weight)
    assert [len(drawn[name]) for name in ("write_filters", "write_maps", "write_top_inputs", "write_maximised")] == [
        3, 3, 3, 1,
    ]  # fmt: skip
    for path in (tmp_path / "dynalens" / "pictures").rglob("*.jpg"):
        with Image.open(path) as picture:
            assert picture.width == 700


def test_channels_that_come_last_have_strongest_inputs(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    model, network = Classifier(), WithChannelsLast(SmallCNN())
    model.net = nn.Sequential(network)
    monitor = LayerMonitor(layer="net.0.norm", channels=[1], top_inputs=3, on_error="raise")
    fit(tmp_path, monitor, model=model, val=in_order, max_epochs=1)
    with torch.no_grad():
        largest = network.norm(network.first.conv(images() / N).permute(0, 2, 3, 1))[..., 1].amax(dim=(1, 2))
    (picture,) = drawn["write_top_inputs"]
    torch.testing.assert_close(picture[0].activations[0], largest.sort(descending=True).values[:3])


def test_rows_of_a_table_keep_their_columns_among_the_strongest_inputs(
    tmp_path: Path, drawn: dict[str, list[Any]]
) -> None:
    class OfRows(Classifier):
        def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
            """Rows have no index."""

    rows, model = torch.randn(N, 150, generator=torch.Generator().manual_seed(5)), OfRows()
    model.net = nn.Sequential(nn.Linear(150, 4), nn.ReLU(), nn.Linear(4, K))
    monitor = LayerMonitor(layer="net.0", channels=[1], top_inputs=2, on_error="raise", inputs=lambda batch: batch[0])
    data = DataLoader(TensorDataset(rows, labels()), batch_size=N)
    fit(tmp_path, monitor, model=model, data=lambda: data, val=lambda: data, max_epochs=1)
    with torch.no_grad():
        order = model.net[0](rows / N)[:, 1].argsort(descending=True)
    (picture,) = drawn["write_top_inputs"]
    torch.testing.assert_close(picture[0].images[0], rows[order[:2]])


def test_the_strongest_inputs_are_those_of_training_before_each_step_where_there_is_no_validation(
    tmp_path: Path, drawn: dict[str, list[Any]]
) -> None:
    class InPlace(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            batch[0].zero_()
            return loss

    model = InPlace()
    before = Classifier()
    before.load_state_dict(model.state_dict())
    # A single step in the epoch: what was seen is what the first weights gave.
    fit(tmp_path, everything(), model=model, data=lambda: loader(batch_size=N, shuffle=False), max_epochs=1)
    top = drawn["write_top_inputs"][0][0]
    torch.testing.assert_close(top.activations[1], strongest(before, images(), 1))
    assert top.images.abs().sum() > 0
    assert torch.equal(drawn["write_maps"][0][0], images()[:2])


def test_a_resumed_run_shows_the_same_inputs(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    saver = ModelCheckpoint(tmp_path / "c", save_last=True)
    fit(tmp_path / "a", everything(), saver, enable_checkpointing=True, max_epochs=1, data=lambda: loader(shuffle=True))
    fit(tmp_path / "b", everything(), ckpt_path=saver.last_model_path, max_epochs=2)
    assert torch.equal(drawn["write_maps"][0][0], drawn["write_maps"][-1][0])


def test_classes_are_maximised_with_their_names(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    data = IndexedDataset(dataset())
    monitor = LayerMonitor(
        maximise="classes",
        maximise_steps=2,
        layer="net.0",
        maximise_args={"variants": 2, "diversity": 0.5},
        on_error="raise",
    )

    class Indexed(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[:2], batch_idx)

    fit(tmp_path, monitor, model=Indexed(), data=lambda: loader(data))
    found, units, layer, _ = drawn["write_maximised"][0]
    assert (list(units), layer, found.shape) == ([0, 0, 1, 1, 2, 2], None, (2 * K, 1, 6, 6))
    assert set(drawn) == {"write_maximised"}


@pytest.mark.parametrize(("arguments", "words"), [({}, "classes"), ({"classes": [2, 0]}, "2 of 3 classes")])
def test_the_picture_of_maximised_classes_says_if_they_are_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], words: str
) -> None:
    titles: list[str] = []

    def noted(rows: Any, title: str, *names: str) -> Any:
        titles.append(title)
        return labelled_grid(rows, title, *names)

    monkeypatch.setattr(layer_pictures, "labelled_grid", noted)
    monitor = LayerMonitor(maximise="classes", maximise_steps=1, on_error="raise", **arguments)
    fit(tmp_path, monitor, max_epochs=1)
    assert titles == [f"images that maximise {words}"]


class TwoHeads(Classifier):
    """Returns the logits of two heads; the loss is that of the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = self.net[:3], self.net[3], nn.Linear(64, K)
        self.net: Any = None

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x)
        return self.first(features), self.second(features)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self(batch[0])[1], batch[1])


@pytest.mark.parametrize("inputs", ["auto", lambda batch: batch[0]])
def test_the_classes_of_the_head_that_is_trained_are_maximised(
    tmp_path: Path, drawn: dict[str, list[Any]], inputs: Any
) -> None:
    heads: list[Any] = [None, lambda model, x: model(x)[1], lambda model, x: model(x)[0]]
    for forward in heads:
        model = TwoHeads()
        model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
        model.second.load_state_dict({"weight": torch.randn(K, 64, generator=torch.Generator().manual_seed(2)),
                                      "bias": torch.zeros(K)})  # fmt: skip
        monitor = LayerMonitor(maximise="classes", maximise_steps=2, inputs=inputs, forward=forward, on_error="raise")
        fit(tmp_path, monitor, model=model, max_epochs=1)
    found, of_second, of_first = (maximised[0] for maximised in drawn["write_maximised"])
    assert torch.equal(found, of_second)
    assert not torch.equal(found, of_first)


class Spread(Classifier):
    """Batches of mask, numbers, image and label, in an order of the user's own; it empties them."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self(batch[2]), batch[3])
        batch[2].data.zero_()  # which autograd does not notice
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[2])


@pytest.mark.parametrize("validates", [False, True], ids=["of the training", "of the validation"])
def test_inputs_are_those_that_the_network_takes_from_a_batch_in_any_order(
    tmp_path: Path, drawn: dict[str, list[Any]], validates: bool
) -> None:
    def data() -> Any:
        parts = torch.ones(N, 1, 6, 6), torch.rand(N, 2), images(), labels()
        return DataLoader(TensorDataset(*parts), batch_size=4)

    monitor = LayerMonitor(layer="net.0", feature_maps=2, top_inputs=3, on_error="raise")
    model = fit(tmp_path, monitor, model=Spread(), data=data, val=data if validates else None, max_epochs=1)
    torch.testing.assert_close(drawn["write_maps"][-1][1], model.net[0](images()[:2]).detach())
    shown = drawn["write_top_inputs"][-1][0].images.flatten(0, 1)
    assert all(any(torch.equal(image, own) for own in images()) for image in shown)


def test_bytes_that_the_model_scales_are_shown_with_the_maps_that_the_model_computes_of_bytes(
    tmp_path: Path, drawn: dict[str, list[Any]]
) -> None:
    x = (images() * 40).clamp(0, 255).to(torch.uint8)

    class Bytes(Classifier):
        def forward(self, inputs: Tensor) -> Tensor:
            assert inputs.dtype is torch.uint8
            return super().forward(inputs / 255)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def data() -> Any:
        return DataLoader(TensorDataset(x, labels()), batch_size=4)

    monitor = LayerMonitor(layer="net.0", feature_maps=2, top_inputs=3, on_error="raise")
    model = fit(tmp_path, monitor, model=Bytes(), data=data, max_epochs=1)
    torch.testing.assert_close(drawn["write_maps"][-1][1], model.net[0](x[:2] / 255).detach())
    shown = drawn["write_top_inputs"][-1][0].images.flatten(0, 1)
    assert all(any(torch.equal(image, own.float()) for own in x) for image in shown)


def test_inputs_by_key_and_by_callable(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    class Keyed(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch["scan"], batch["y"]), batch_idx)

    def collate(samples: Any) -> dict[str, Tensor]:
        x, y = torch.utils.data.default_collate(samples)
        return {"scan": x, "y": y}

    for place, inputs in enumerate(["scan", lambda batch: batch["scan"]]):
        fit(tmp_path, everything(inputs=inputs), model=Keyed(), data=lambda: loader(collate_fn=collate))
        assert len(drawn["write_maps"]) == 3 * (place + 1)


def test_a_picture_that_fails_is_warned_of_once_and_training_goes_on(tmp_path: Path) -> None:
    model = Classifier()
    with pytest.warns(UserWarning, match=r"switched off, training goes on: ValueError: .*below 4, .*got 9") as warned:
        fit(tmp_path, LayerMonitor(layer="net.0", channels=[9], feature_maps=1), model=model, val=in_order)
    assert len([w for w in warned if "switched off" in str(w.message)]) == 1
    assert len(model.seen) == 18
    with pytest.raises(ValueError, match=r"below 4, .* got 9"):
        fit(tmp_path, everything(channels=[9]), val=in_order)
    flat = TensorDataset(images().flatten(1), labels())

    class Flat(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(36, K))

        def remember(self, *args: Any) -> None: ...

    with pytest.warns(UserWarning, match=r"Expected images or signals .* got NoneType"):
        fit(tmp_path, LayerMonitor(maximise="classes"), model=Flat(), data=lambda: loader(flat))


@pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")
def test_feature_maps_that_fail_are_left_out_and_other_pictures_are_drawn(
    tmp_path: Path, drawn: dict[str, list[Any]]
) -> None:
    fails = LayerMonitor(layer="net.0", weights=True, channels=[9], feature_maps=1, max_overhead=None)
    with pytest.warns(UserWarning, match=r"^Feature maps are switched off, training goes on: .*below 4") as warned:
        fit(tmp_path, fails, val=in_order)
    assert len([w for w in warned if "switched off" in str(w.message)]) == 1
    assert list(drawn) == ["write_filters"]


def test_a_layer_that_the_loss_needs_two_calls_of_has_no_strongest_inputs(tmp_path: Path) -> None:
    class Twice(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self(batch[0]) + self(batch[0].flip(2))
            return nn.functional.cross_entropy(logits, batch[1])

    monitor = LayerMonitor(layer="net.0", top_inputs=1)
    with pytest.warns(UserWarning, match=r"got 2 calls behind the loss of net.0. Name a layer .* once in a step"):
        fit(tmp_path, monitor, model=Twice(), max_epochs=1)


def test_mistakes_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected at least one of `weights`, `feature_maps`"):
        LayerMonitor(layer="net.0")
    with pytest.raises(ValueError, match=r"Expected `layer` to name a layer for `feature_maps`.*got None"):
        LayerMonitor(feature_maps=2)
    with pytest.raises(ValueError, match="Expected `maximise` to be 'classes' or 'channels', got 'all'"):
        LayerMonitor(maximise="all")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match=r"Expected `maximise_args` to be among variants, .* got steps"):
        LayerMonitor(maximise="classes", maximise_args={"steps": 3})
    with pytest.raises(
        ValueError, match="Expected `channels` to be a positive number, or a list of numbers of at least 0, got 0"
    ):
        LayerMonitor(weights=True, channels=0)
    with pytest.raises(ValueError, match=r"Expected `layer` to name a layer of Classifier, got 'net.x'.*nearest"):
        fit(tmp_path, everything(layer="net.x"))
    with pytest.raises(ValueError, match=r"Expected `weights` to name a convolution of Classifier, got 'net.3'"):
        fit(tmp_path, everything(weights="net.3"))
