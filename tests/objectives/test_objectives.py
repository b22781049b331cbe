"""Laws of every training objective, and the formulas of each."""

import math
from copy import deepcopy

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src import detectors
from src.block_selection import BlockSelection
from src.classifier import Classifier
from src.data import ImageData
from src.data.datasets import Batch
from src.data.pseudo_ood import Jigsaw
from src.network import Network
from src.objectives import CrossEntropy, LogitNorm, Objective, RotPred
from tests.fakes import Memory

OBJECTIVES = [CrossEntropy(), CrossEntropy(label_smoothing=0.1), LogitNorm(), RotPred()]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)


class Given(nn.Module):
    """A network whose logits are given."""

    rotation_head = None

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


def new_network(**options: object) -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    return Network(net, ["0", "1"], image_shape=(3, 12, 12), **options)  # type: ignore[arg-type]


def new_batch(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(n)
    return Batch(torch.rand(n, 3, 12, 12, generator=generator), index % 3, index)


def loss_of(objective: Objective, logits: Tensor, label: Tensor) -> Tensor:
    batch = Batch(torch.zeros(len(label), 3, 12, 12), label, torch.arange(len(label)))
    own, loss = objective(Given(logits), batch)  # type: ignore[arg-type]
    assert own is logits
    return loss


@every_objective
def test_every_parameter_is_trained_and_the_logits_are_those_of_the_images(
    objective: Objective,
) -> None:
    network, batch = new_network(rotation_head=isinstance(objective, RotPred)), new_batch()
    objective.check(network)
    logits, loss = objective(network, batch)
    torch.testing.assert_close(logits, network(batch.image))
    assert loss.shape == ()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_objective
def test_a_classifier_learns_and_selects_a_block(objective: Objective) -> None:
    network = new_network(rotation_head=isinstance(objective, RotPred), feature_temperature=0.1)
    before = deepcopy(network.state_dict())
    classifier = Classifier(
        network, objective=objective, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    data = ImageData(Memory(24), Memory(4), {}, batch_size=8, validation_size=8)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[BlockSelection(Jigsaw())],
    )  # fmt: skip
    trainer.fit(classifier, datamodule=data)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert network.selected in network.blocks
    after = network.state_dict()
    same = {
        key for key in before if torch.is_tensor(before[key]) and before[key].equal(after[key])
    }
    assert same == {"mean", "std", "net.4.0.temperature"}


@every_objective
def test_mixed_labels_are_the_target(objective: Objective) -> None:
    network = new_network(rotation_head=isinstance(objective, RotPred))
    batch = new_batch()
    target = F.one_hot(batch.label, 3).float()
    same, swapped = batch._replace(target=target), batch._replace(target=target.flip(0))
    torch.testing.assert_close(objective(network, same)[1], objective(network, batch)[1])
    flipped = batch._replace(label=batch.label.flip(0))
    torch.testing.assert_close(objective(network, swapped)[1], objective(network, flipped)[1])


def test_label_smoothing_moves_a_share_of_the_target_to_all_classes() -> None:
    logits, label = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    target = 0.9 * F.one_hot(label, 4) + 0.1 / 4
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss_of(CrossEntropy(0.1), logits, label), expected)


def test_logit_norm_does_not_fall_with_larger_logits() -> None:
    logits, label = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    loss = loss_of(LogitNorm(0.1), logits, label)
    torch.testing.assert_close(loss_of(LogitNorm(0.1), 1000 * logits, label), loss)
    unit = logits / logits.norm(dim=1, keepdim=True)
    torch.testing.assert_close(loss, F.cross_entropy(unit / 0.1, label), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("classes", "temperature"), [(10, 1.0), (10, 0.04), (1000, 1.0)])
def test_logit_norm_has_the_minimum_that_follows_from_its_formula(
    classes: int, temperature: float
) -> None:
    """log(1 + (K - 1) exp(-sqrt(K / (K - 1)) / tau)), where all other logits are equal."""
    label = torch.tensor([3])
    best = F.one_hot(label, classes).double() - 1 / classes
    least = math.log1p((classes - 1) * math.exp(-math.sqrt(classes / (classes - 1)) / temperature))
    objective = LogitNorm(temperature)
    assert loss_of(objective, best, label).item() == pytest.approx(least, rel=1e-4, abs=1e-6)
    for _ in range(20):
        near = best + 0.1 * torch.randn(1, classes)
        assert loss_of(objective, near, label).item() >= least - 1e-6


def test_logit_norm_is_finite_in_half_precision_and_at_zero() -> None:
    label = torch.tensor([0, 1])
    for logits in (torch.zeros(2, 3), torch.full((2, 3), 60000.0)):
        assert loss_of(LogitNorm(), logits.half(), label).isfinite()


def test_t2fnorm_normalises_features_while_training_alone() -> None:
    plain, network, image = new_network(), new_network(feature_temperature=0.1), new_batch().image
    feature = plain.observe(image).feature
    weight, bias = plain.head.weight, plain.head.bias
    unit = feature / feature.norm(dim=1, keepdim=True)
    torch.testing.assert_close(network.train()(image), F.linear(unit / 0.1, weight, bias))
    seen = network.eval().observe(image)
    torch.testing.assert_close(seen.logits, F.linear(feature / 0.1, weight, bias))
    torch.testing.assert_close(network.logits_of(seen.feature), seen.logits)
    assert network.head_is_linear
    torch.testing.assert_close(seen.norm, plain.observe(image).norm)


def test_the_temperature_is_saved_and_weights_without_it_are_refused() -> None:
    state = new_network(feature_temperature=0.1).state_dict()
    loaded = new_network(feature_temperature=0.5)
    loaded.load_state_dict(state)
    image = new_batch().image
    expected = new_network(feature_temperature=0.1).eval()(image)
    torch.testing.assert_close(loaded.eval()(image), expected)
    with pytest.raises(RuntimeError, match=r"net\.4\.0\.temperature"):
        new_network().load_state_dict(state)


def test_rot_pred_adds_the_loss_of_the_angles() -> None:
    network, batch = new_network(rotation_head=True), new_batch()
    logits, loss = RotPred()(network, batch)
    expected = F.cross_entropy(logits, batch.label)
    for times in range(4):
        turned = batch.image.rot90(times, (2, 3))
        angle = network.angle_of(network.observe(turned).feature)
        expected = expected + F.cross_entropy(angle, torch.full((6,), times)) / 4
    torch.testing.assert_close(loss, expected)


def test_the_detector_rot_pred_is_a_difference_of_divergences_in_bits() -> None:
    network, image = new_network(rotation_head=True).eval(), new_batch().image
    class_probability = network(image).softmax(dim=1)
    uniform = torch.full_like(class_probability, 1 / 3)
    expected = (uniform * (uniform / class_probability).log2()).sum(dim=1)
    for times in range(4):
        feature = network.observe(image.rot90(times, (2, 3))).feature
        expected = expected + network.angle_of(feature).softmax(dim=1)[:, times].log2() / 4
    with torch.no_grad():
        score = detectors.RotPred().score(network.observe(image))
    torch.testing.assert_close(score, expected)


def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"expected a network with a rotation head.*rot_pred"):
        Classifier(new_network(), objective=RotPred(), optimizer=torch.optim.Adam)
    with pytest.raises(ValueError, match=r"every head CrossEntropy trains.*rotation_head=false"):
        Classifier(new_network(rotation_head=True), optimizer=torch.optim.Adam)
    with pytest.raises(ValueError, match="compiled=false"):
        Classifier(new_network(rotation_head=True), objective=RotPred(), compiled=True)
    with pytest.raises(ValueError, match="with a rotation head, which RotPred scores"):
        detectors.expand_blocks({"rot_pred": detectors.RotPred()}, new_network())
    with pytest.raises(RuntimeError, match="objective=rot_pred"):
        new_network().class_and_angle(torch.zeros(1, 3, 12, 12))
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    oblong = Network(net, ["1"], image_shape=(3, 12, 8), rotation_head=True)
    with pytest.raises(ValueError, match="square images to turn, got 12x8"):
        RotPred().check(oblong)
    for build, name in (
        (lambda: LogitNorm(0), "temperature"),
        (lambda: CrossEntropy(1.0), "label_smoothing"),
        (lambda: new_network(feature_temperature=-1.0), "feature_temperature"),
    ):
        with pytest.raises(ValueError, match=rf"expected .*{name}.*got"):
            build()
