"""Steps with several losses: attacks on inputs, batches taken in parts, and steps that train on two losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from dynalens import CaptureError, TrainingDynamicsMonitor
from dynalens.capture.capture_argument import NamedLayer
from test_losses import assert_equals_the_definitions, own_loss
from training import Classifier, K, N, dataset, fit, fit_undisturbed, loader

pytestmark = pytest.mark.usefixtures("undrawn")


class ByHand(Classifier):
    """Optimises by hand; ``remembered`` says which pass the step trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.train_on(*batch)
        optimizer.step()

    def train_on(self, x: Tensor, y: Tensor) -> None:
        self.manual_backward(self.remembered(x / N, x, y))

    def remembered(self, inputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = self(inputs)
        self.remember(x, logits, y)
        return self.loss(logits, y)


def leaf(x: Tensor) -> Tensor:
    return (x / N).clone().requires_grad_()


def attacked(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    clean = leaf(x)
    (gradient,) = torch.autograd.grad(model.loss(model(clean), y), [clean])
    return clean.detach() + 0.5 * gradient.sign()


class Attack(ByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        self.manual_backward(self.remembered(attacked(self, x, y), x, y))


class IteratedAttack(ByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        shift = torch.zeros_like(x)
        for _ in range(2):
            shift.requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(self(x / N + shift), y), [shift])
            shift = (shift + 0.1 * gradient.sign()).detach()
        self.remembered(x / N + shift, x, y).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


class AutomaticAttack(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(attacked(self, x, y))
        self.remember(x, logits, y)
        return self.loss(logits, y)


class AutomaticAttackByBackward(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        clean = leaf(x)
        self.loss(self(clean), y).backward()  # type: ignore[no-untyped-call]
        self.zero_grad()
        assert clean.grad is not None
        logits = self(clean.detach() + 0.5 * clean.grad.sign())
        self.remember(x, logits, y)
        return self.loss(logits, y)


class AttackOnOwnLoss(AutomaticAttackByBackward):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class FunctionalUpdate(ByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        loss = self.remembered(attacked(self, x, y), x, y)
        for parameter, gradient in zip(
            self.parameters(), torch.autograd.grad(loss, list(self.parameters())), strict=True
        ):
            parameter.grad = gradient


class GradientPenalty(ByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        inputs = leaf(x)
        loss = self.remembered(inputs, x, y)
        (gradient,) = torch.autograd.grad(loss, [inputs], create_graph=True)
        self.manual_backward(loss + gradient.square().sum())


class SecondLook(ByHand):
    """Sharpness-aware minimisation: the gradient is that of weights a step away."""

    def train_on(self, x: Tensor, y: Tensor) -> None:
        super().train_on(x, y)
        with torch.no_grad():
            for parameter in self.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad.sign(), alpha=0.01)
        self.zero_grad()
        self.manual_backward(self.loss(self(x / N), y))


class SecondLookOfOwnLoss(SecondLook):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class SecondLookAtSome(SecondLook):
    """Only some rows are looked at again, as in efficient sharpness-aware minimisation."""

    def train_on(self, x: Tensor, y: Tensor) -> None:
        ByHand.train_on(self, x, y)
        with torch.no_grad():
            for parameter in self.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad.sign(), alpha=0.01)
        some = torch.arange(len(y)) % 3 == 1
        self.manual_backward(self.loss(self(x[some] / N), y[some]))
        self.manual_backward(self.loss(self(x[:2] / N), y[:2]))


class Logged(Classifier):
    """Losses of the same logits are computed without gradients, for the log."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x / N)
        with torch.no_grad():
            chance = F.cross_entropy(logits, y[torch.randperm(len(y))])
        self.remember(x, logits, y)
        loss = self.loss(logits, y)
        with torch.no_grad():
            self.log("chance", chance + F.cross_entropy(logits, (y + 1) % K) + F.cross_entropy(logits[:2], y[:2]))
        return loss


class LoggedByHand(ByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        super().train_on(x, y)
        logits = self(x / N)
        with torch.no_grad():
            self.log("chance", F.cross_entropy(logits, (y + 1) % K))


def hessian_of(logits: Tensor, y: Tensor) -> Tensor:
    jacobian = torch.func.jacrev
    out: Tensor = jacobian(jacobian(lambda z: F.cross_entropy(z, y)))(logits.detach())
    return out


class HeadOfEachPart(Classifier):
    """Each half of a batch has a head of its own, and one loss."""

    def __init__(self) -> None:
        super().__init__()
        self.other_head = nn.Linear(64, K)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = []
        for head, x, y in zip((self.net[3], self.other_head), *(part.split(3) for part in batch), strict=False):
            logits = head(self.net[:3](x / N))
            self.remember(x, logits, y)
            losses.append(self.loss(logits, y))
        return torch.stack(losses).sum()


class TwoLossesAndASecondLook(ByHand):
    """Of two heads, both are looked at twice."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(64, K)

    def train_on(self, x: Tensor, y: Tensor) -> None:
        for is_first in (True, False):
            logits = self(x / N)
            if is_first:
                self.remember(x, logits, y)
            self.manual_backward(self.loss(logits, y) + self.loss(self.auxiliary(self.net[:3](x / N)), y))


class Curvature(Classifier):
    """The Hessian of the loss is computed before it, and after it, for the log."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        def curvature() -> Tensor:
            hessian = hessian_of(logits, y)
            return hessian.square().sum()

        before, loss = curvature(), super().loss(logits, y)
        self.log("curvature", before + curvature())
        return loss


class CurvatureByHand(ByHand):
    def remembered(self, inputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
        hessian_of(self(inputs), y)
        return super().remembered(inputs, x, y)


class OfLogarithms(Classifier):
    """Two losses of the same labels, one of the logits and one of the logarithms of their softmax."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        each = F.nll_loss(logits.log_softmax(dim=1), y, reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean() + 0.1 * F.cross_entropy(logits, y)


class Parts(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = []
        for x, y in zip(batch[0].split(2), batch[1].split(2), strict=True):
            logits = self(x / N)
            self.remember(x, logits, y)
            losses.append(self.loss(logits, y))
        return torch.stack(losses).mean()


class PartsOfLogits(Classifier):
    """Which are several results of one operation."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.stack(
            [super(PartsOfLogits, self).loss(*part) for part in zip(logits.chunk(2), y.chunk(2), strict=True)]
        ).mean()


class OtherPartIsLogged(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        trained, logged = torch.cat([logits, logits.flip(1)]).chunk(2)
        super().loss(logged, y)
        return super().loss(trained, y)


class AfterAnother(ByHand):
    """The second of two optimizers trains the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(36, 5)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.decoder(batch[0].flatten(1) / N).square().mean())
        super().training_step(batch, batch_idx)


class OwnLossAfterAnother(AfterAnother):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class BinaryParts(Parts):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y.float())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]

    def remember(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
        super().remember(x, torch.stack([torch.zeros_like(logits), logits], dim=1), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step([batch[0], batch[1].clamp(max=1)], batch_idx)


class PartsByHand(ByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        for begin in range(0, len(y), 4):
            super().train_on(x[begin : begin + 4], y[begin : begin + 4])


@pytest.mark.parametrize(
    "model",
    [
        Attack, IteratedAttack, AutomaticAttack, AutomaticAttackByBackward, AttackOnOwnLoss, FunctionalUpdate,
        GradientPenalty, SecondLook, SecondLookOfOwnLoss, SecondLookAtSome, Logged, LoggedByHand,
        Curvature, CurvatureByHand, HeadOfEachPart, OfLogarithms, Parts, BinaryParts,
        PartsByHand, PartsOfLogits, OtherPartIsLogged, AfterAnother, OwnLossAfterAnother,
    ],
)  # fmt: skip
def test_the_pass_that_trains_is_recorded_and_weights_are_bit_identical(
    tmp_path: Path, model: type[Classifier]
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, model, data=lambda: loader(batch_size=6), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_parts_are_joined_that_only_later_batches_have(tmp_path: Path) -> None:
    rows = torch.arange(N).tolist()
    data = DataLoader(dataset(), batch_sampler=[rows[:4], rows[4:10], rows[10:16], rows[16:]])
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=PartsByHand(), data=lambda: data, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class AttackByBackward(ByHand):
    """Gradients of the clean pass may stay: nobody can see which one trains."""

    def train_on(self, x: Tensor, y: Tensor) -> None:
        clean = leaf(x)
        self.manual_backward(self.loss(self(clean), y))
        assert clean.grad is not None
        self.zero_grad()
        self.manual_backward(self.loss(self(clean.detach() + 0.5 * clean.grad.sign()), y))


class AttackByBackwardOnOwnLoss(AttackByBackward):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class CleanAndAttacked(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x / N), y) + self.loss(self(attacked(self, x, y)), y)


class InnerAndOuter(ByHand):
    """Meta-learning: the inner loss updates, and the outer one trains through the update."""

    def train_on(self, x: Tensor, y: Tensor) -> None:
        parameters: dict[str, Tensor] = dict(self.net.named_parameters())
        inner = self.loss(torch.func.functional_call(self.net, parameters, (x / N,)), y)
        gradients = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
        fast = {name: p - 0.1 * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
        self.manual_backward(self.loss(torch.func.functional_call(self.net, fast, (x / N,)), y))


class OfFirstOrder(InnerAndOuter):
    """The inner loss has the first rows, and no gradient goes through the update."""

    create_graph = False

    def train_on(self, x: Tensor, y: Tensor) -> None:
        parameters: dict[str, Tensor] = dict(self.net.named_parameters())
        inner = self.loss(torch.func.functional_call(self.net, parameters, (x[:3] / N,)), y[:3])
        gradients = torch.autograd.grad(inner, list(parameters.values()), create_graph=self.create_graph)
        fast = {name: p - 0.1 * g for (name, p), g in zip(parameters.items(), gradients, strict=True)}
        self.manual_backward(self.loss(torch.func.functional_call(self.net, fast, (x[3:] / N,)), y[3:]))


class OfSecondOrder(OfFirstOrder):
    create_graph = True


class UpdatesInside(ByHand):
    """The second half of the rows meets weights that the first half has updated."""

    def train_on(self, x: Tensor, y: Tensor) -> None:
        optimizer: Any = self.optimizers()
        for half in (slice(None, 3), slice(3, None)):
            self.manual_backward(self.loss(self(x[half] / N), y[half]))
            optimizer.step()


class TwoNetworks(ByHand):
    """A probe on the same inputs is trained on the same labels before the classifier, or after it."""

    classifier_first = False

    def __init__(self) -> None:
        super().__init__()
        self.second = self.second_network()

    def second_network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(36, K))

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net, self.second)]

    def second_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.second(x / N), y)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        losses: list[Any] = [self.second_loss, lambda x, y: self.remembered(x / N, x, y)]
        optimizers: Any = self.optimizers()
        order = [1, 0] if self.classifier_first else [0, 1]
        for i in order:
            self.zero_grad()
            self.manual_backward(losses[i](*batch))
            optimizers[1 - i].step()


class ClassifierFirst(TwoNetworks):
    classifier_first = True


class TwoNetworksOfOwnLosses(TwoNetworks):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class AdversaryFirst(TwoNetworks):
    """A network changes images so that the classifier fails. Both losses have the logits of one last layer."""

    def second_network(self) -> nn.Module:
        return nn.Conv2d(1, 1, 3, padding=1)

    def second_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.loss(self(x / N + self.second(x / N).tanh()), y)


class ForwardOfNeither(TwoNetworks):
    """Both networks are called by their own names."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.manual_backward(self.second_loss(x, y))
        self.manual_backward(self.remembered_of_net(x, y))

    def remembered_of_net(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.net(x / N)
        self.remember(x, logits, y)
        return self.loss(logits, y)


class PartOfTheOther(TwoNetworks):
    """Each network is trained on a part of the rows."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.manual_backward(self.second_loss(x[:2], y[:2]))
        self.manual_backward(self.loss(self(x[2:] / N), y[2:]))


class GradientsOfSamples(ByHand):
    """Differential privacy: the gradients of single samples, by ``vmap``."""

    def train_on(self, x: Tensor, y: Tensor) -> None:
        parameters = {name: value.detach() for name, value in self.net.named_parameters()}

        def loss_of(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            return self.loss(torch.func.functional_call(self.net, values, (image[None] / N,)), label[None])

        gradients = torch.func.vmap(torch.func.grad(loss_of), (None, 0, 0))(parameters, x, y)
        for name, parameter in self.net.named_parameters():
            parameter.grad = gradients[name].mean(dim=0)

    def result(self, x: Tensor, y: Tensor) -> Any:
        return None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            logits = self(batch[0] / N)
        self.remember(batch[0], logits, batch[1])
        super().training_step(batch, batch_idx)
        return self.result(logits, batch[1])


class GradientsOfSamplesAndLogits(GradientsOfSamples):
    def result(self, logits: Tensor, y: Tensor) -> Any:
        return {"loss": self.loss(logits, y), "logits": logits, "targets": y}


def test_losses_of_single_samples_by_vmap_are_an_error_in_the_first_batch_and_its_advice_works(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"Expected one classification loss .* got none.*Return a dict"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=GradientsOfSamples(), max_epochs=1)
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, GradientsOfSamplesAndLogits, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class ProbeBesideOwnLoss(TwoNetworks):
    """Of a probe, torch's loss is called. The classifier is trained on a loss of one's own, in the same pass or not."""

    def second_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.second(x / N), y)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class ProbeInOnePass(ProbeBesideOwnLoss):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.manual_backward(self.second_loss(x, y) + self.remembered(x / N, x, y))


class ProbeBesideOneHot(ProbeInOnePass):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -(F.one_hot(y, K) * logits.log_softmax(1)).sum(1).mean()


class PartsTwice(PartsByHand):
    def train_on(self, x: Tensor, y: Tensor) -> None:
        super().train_on(x, y)
        super().train_on(x, y)


class OverlappingParts(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x[:4] / N), y[:4]) + self.loss(self(x[2:] / N), y[2:])


@pytest.mark.parametrize(
    "model",
    [
        AttackByBackward, AttackByBackwardOnOwnLoss, CleanAndAttacked, InnerAndOuter, PartsTwice, OverlappingParts,
        OfFirstOrder, OfSecondOrder, UpdatesInside, AdversaryFirst, PartOfTheOther, ForwardOfNeither,
        TwoNetworksOfOwnLosses, TwoLossesAndASecondLook,
    ],
)  # fmt: skip
def test_two_losses_of_one_sample_are_an_error_in_the_first_batch(tmp_path: Path, model: type[Classifier]) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    with pytest.raises(CaptureError, match=r"Expected one classification loss .* got [2-4]"):
        fit(tmp_path, monitor, model=model(), data=lambda: loader(batch_size=6), limit_train_batches=1, max_epochs=1)


@pytest.mark.parametrize("model", [ProbeBesideOwnLoss, ProbeInOnePass, ProbeBesideOneHot])
def test_a_loss_of_ones_own_on_the_labels_of_another_network_is_an_error_in_the_first_batch(
    tmp_path: Path, model: type[Classifier]
) -> None:
    with pytest.raises(CaptureError, match=r"got 1: cross_entropy of .*; and one of another kind"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=model(), limit_train_batches=1, max_epochs=1)


class InTurn(TwoNetworks):
    """The probe is trained in every other step."""

    def is_second(self, batch_idx: int) -> bool:
        return batch_idx % 2 == 1

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        i = int(self.is_second(batch_idx))
        self.zero_grad()
        self.manual_backward(self.second_loss(x, y) if i else self.remembered(x / N, x, y))
        optimizers: Any = self.optimizers()
        optimizers[i].step()


class OwnLossesInTurn(InTurn):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class GeneratorInTurn(InTurn):
    """A generator is trained so that the classifier tells the labels that its samples were made for."""

    def second_network(self) -> nn.Module:
        return nn.Linear(K, 36)

    def second_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self(self.second(F.one_hot(y, K).float()).view(-1, 1, 6, 6)), y)


class GeneratorFirst(GeneratorInTurn):
    def is_second(self, batch_idx: int) -> bool:
        return batch_idx % 2 == 0


@pytest.mark.parametrize("model", [InTurn, OwnLossesInTurn, GeneratorInTurn, GeneratorFirst])
def test_two_networks_that_are_trained_in_turn_are_an_error_in_the_first_steps(
    tmp_path: Path, model: type[Classifier]
) -> None:
    with pytest.raises(CaptureError, match="Expected all steps to train one network on the labels"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=model(), limit_train_batches=2, max_epochs=1)


class OneInputOfTwo(Classifier):
    """NumPy changes the inputs of every other step, which cannot be followed."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step([x if batch_idx % 2 else torch.from_numpy(x.numpy() + 0), y], batch_idx)


class HalvesInTurn(Classifier):
    """The head and the layers before it are trained in turn, each while the other half is frozen."""

    head_first = True

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        trains_head = (batch_idx % 2 == 0) is self.head_first
        self.net[0].requires_grad_(not trains_head)
        self.net[3].requires_grad_(trains_head)
        return super().training_step(batch, batch_idx)


class HeadLast(HalvesInTurn):
    head_first = False


class HeadOfEachTask(Classifier):
    """Samples of even and odd batches have heads of their own. Both heads share the network before them."""

    def __init__(self) -> None:
        super().__init__()
        self.other_head = nn.Linear(64, K)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        features = self.net[:3](x / N)
        logits = self.net[3](features) if batch_idx % 2 else self.other_head(features)
        self.remember(x, logits, y)
        return self.loss(logits, y)


class HeadOfEachTaskBehindCheckpoint(HeadOfEachTask):
    """An activation checkpoint hides what the heads share."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        features = checkpoint(self.net[:3], (x / N).requires_grad_(), use_reentrant=True)
        logits = self.net[3](features) if batch_idx % 2 else self.other_head(features)
        self.remember(x, logits, y)
        return self.loss(logits, y)


class BesideAuxiliaryHead(Classifier):
    """An auxiliary head that ``forward`` does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(64, K)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.auxiliary_loss(self.auxiliary(self.net[:3](x / N)), y)
        return loss + torch.as_tensor(super().training_step(batch, batch_idx))

    def auxiliary_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.loss(logits, y)


class BesideOwnLoss(BesideAuxiliaryHead):
    def auxiliary_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, y)


class BesideOwnLossOfOtherTargets(BesideAuxiliaryHead):
    """``forward`` returned neither logits, but the other loss has other targets."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.net(x / N)
        self.remember(x, logits, y)
        return self.auxiliary_loss(self.auxiliary(self.net[:3](x / N)), y) + self.loss(logits, y)

    def auxiliary_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return own_loss(logits, torch.arange(len(y)) % K)


@pytest.mark.parametrize(
    "model",
    [
        TwoNetworks, ClassifierFirst, BesideAuxiliaryHead, BesideOwnLoss, BesideOwnLossOfOtherTargets, HeadOfEachTask,
        OneInputOfTwo, HalvesInTurn, HeadLast,
        HeadOfEachTaskBehindCheckpoint,
    ],
)  # fmt: skip
def test_the_network_that_forward_returns_is_recorded_beside_others_and_so_are_heads_of_tasks(
    tmp_path: Path, model: type[Classifier]
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit_undisturbed(tmp_path, monitor, model, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class ReturnsTheClassifiers(TwoNetworks):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        logits = self.seen[-1][2]
        return {"loss": self.loss(logits, batch[1]), "logits": logits, "targets": batch[1]}


class InTurnWithoutGradients(InTurn):
    def second_loss(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            self.net(x / N)
        return super().second_loss(x, y)


@pytest.mark.parametrize(
    ("model", "capture"),
    [
        (ReturnsTheClassifiers, "auto"),
        (TwoNetworks, "module:net"),
        (ForwardOfNeither, "module:net"),
        (InTurn, "module:net"),
        (InTurnWithoutGradients, "module:net"),
    ],
)
def test_the_network_that_is_named_or_returned_is_recorded_beside_another(
    tmp_path: Path, model: type[Classifier], capture: Any
) -> None:
    monitor = TrainingDynamicsMonitor(history=False, capture=capture)
    module = fit_undisturbed(tmp_path, monitor, model, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_a_named_layer_is_watched_in_its_step_alone() -> None:
    model, layer = nn.Sequential(nn.Linear(2, 2)), NamedLayer("0")
    layer.start(model)
    assert len(model[0]._forward_hooks) == 1
    layer.close()
    assert not model[0]._forward_hooks


def test_the_advice_of_the_error_about_two_losses_works(tmp_path: Path) -> None:
    class Returns(AttackByBackward):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            x, y = batch
            logits = self(x / N)
            self.remember(x, logits, y)
            return {"loss": self.loss(logits, y).detach(), "logits": logits.detach(), "targets": y}

    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=Returns(), max_epochs=1)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
