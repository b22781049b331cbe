"""Laws of the benchmark, on real test loops over a tiny network."""

from collections.abc import Callable
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
import torch
from torch import Tensor

from src.benchmark import Benchmark
from src.data import ImageData
from src.detectors import FSSD, KNN, MSP, SHE, Detector, Energy, FeatureNorm, MaxLogit, Perturbed
from src.metrics import Scores, feature_norm
from src.models import ResNet
from src.network import ForwardPass, Network, Reader
from tests.fakes import Memory

BLOCKS = ("layer1.0", "layer2.0", "layer3.0", "layer4.0")
COUNTS = {"id": 11, "near": 7, "far": 4, "single": 1}
TRAIN, HELD_OUT, BATCH = 30, 9, 4
FIT = TRAIN - HELD_OUT


class ClassMeans(Detector):
    """Negative distance to the nearest class mean of the feature; notes what it was shown."""

    def __init__(self, fit_on: Literal["train", "validation"] = "train") -> None:
        super().__init__()
        self.fit_on = fit_on
        self.total, self.count = torch.zeros(3, 32), torch.zeros(3)
        self.index: list[int] = []
        self.calls: list[str] = []

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        self.calls.append("update")
        self.index += index.tolist()
        self.total.index_add_(0, label, seen.feature)
        self.count += label.bincount(minlength=3)

    def fit(self, network: Network) -> None:
        self.calls.append("fit")
        self.mean = self.total / self.count[:, None]

    def score(self, seen: ForwardPass) -> Tensor:
        self.calls.append("score")
        return -torch.cdist(seen.feature, self.mean).amin(dim=1)


class MapReader(Detector):
    """Reads the deepest feature map itself."""

    def reads(self, network: Network) -> list[tuple[str, Reader]]:
        return [(BLOCKS[-1], feature_norm)]

    def score(self, seen: ForwardPass) -> Tensor:
        return seen.read(BLOCKS[-1], feature_norm)


def new_network() -> Network:
    torch.manual_seed(0)
    net = ResNet((1, 1, 1, 1), width=4, num_classes=3)
    network = Network(net, BLOCKS, image_shape=(3, 12, 12))
    network.norm_ratio = dict(zip(BLOCKS, (1.0, 1.1, 1.3, 1.2), strict=True))
    return network.eval()


def source_of(name: str) -> Memory:
    return Memory({"train": TRAIN, **COUNTS}[name], seed=len(name))


def new_data(batch_size: int = BATCH) -> ImageData:
    ood = {name: source_of(name) for name in COUNTS if name != "id"}
    return ImageData(
        source_of("train"), source_of("id"), ood,
        eval_batch_size=batch_size, validation_size=HELD_OUT,
    )  # fmt: skip


def new_trainer(precision: Any = "32-true") -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, precision=precision,
    )  # fmt: skip


def run(
    detectors: dict[str, Detector],
    *,
    network: Network | None = None,
    batch_size: int = BATCH,
    precision: str = "32-true",
    **options: Any,
) -> Benchmark:
    data = new_data(batch_size)
    benchmark = Benchmark(network or new_network(), detectors, data.sources, **options)
    benchmark.run(new_trainer(precision), data)
    return benchmark


def column(scores: Scores, detector: str, source: str) -> Tensor:
    return scores.of(source)[:, scores.column(detector)]


def test_scores_equal_a_loop_over_single_images() -> None:
    scores = run({"msp": MSP(), "norm": FeatureNorm(), "map": MapReader()}).scores
    network, right = new_network(), 0
    for source in COUNTS:
        images = source_of(source).images
        for row, image in enumerate(images.image):
            with torch.no_grad():
                seen = network.observe(image[None] / 255)
            right += int(source == "id" and seen.logits.argmax() == images.label[row])
            expected = [seen.logits.double().softmax(1).max(), seen.norm[BLOCKS[2]]]
            expected.append(feature_norm(seen.feature_map[BLOCKS[3]]))
            found = [column(scores, name, source)[row] for name in ("msp", "norm", "map")]
            assert [float(x) for x in found] == pytest.approx([float(x) for x in expected], 1e-5)
    assert scores.id_accuracy == right / COUNTS["id"]


def test_sources_and_images_come_in_order_and_once() -> None:
    scores = run({"msp": MSP()}).scores
    assert scores.sources == tuple(COUNTS)
    assert scores.counts == COUNTS
    assert scores.index.tolist() == [i for n in COUNTS.values() for i in range(n)]


@pytest.mark.parametrize(
    "detectors",
    [
        {"msp": MSP()},
        {"msp": MSP(), "max": MaxLogit(), "energy": Energy(), "norm": FeatureNorm("each_block")},
        {"msp": MSP(), "map": MapReader(), "means": ClassMeans()},
        {"means": ClassMeans(), "held out": ClassMeans("validation"), "more": ClassMeans()},
    ],
    ids=["one", "many", "fitted", "fitted on both parts"],
)
def test_each_image_is_forwarded_once_whatever_the_detectors(
    detectors: dict[str, Detector],
) -> None:
    network, batch_sizes = new_network(), []
    network.net.register_forward_hook(lambda _, inputs, __: batch_sizes.append(len(inputs[0])))
    benchmark = run(detectors, network=network)
    size = {"train": FIT, "validation": HELD_OUT, **COUNTS}
    expected = [
        min(BATCH, size[name])
        for name in (*benchmark.fit_on, *COUNTS)
        for _ in range(ceil(size[name] / BATCH))
    ]
    assert batch_sizes == expected
    assert benchmark.forward_passes == len(expected)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_scores_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    expected, scores = (
        run({"msp": MSP(), "norm": FeatureNorm(), "means": ClassMeans()}, batch_size=size).scores
        for size in (BATCH, batch_size)
    )
    torch.testing.assert_close(scores.score, expected.score, rtol=1e-5, atol=1e-6)
    assert scores.prediction.equal(expected.prediction)


def test_a_detector_that_fits_sees_each_training_image_once_and_before_it_scores() -> None:
    detector = ClassMeans()
    run({"means": detector})
    assert sorted(detector.index) == list(range(FIT))
    fits = detector.calls.index("fit")
    assert detector.calls[:fits] == ["update"] * ceil(FIT / BATCH)
    assert set(detector.calls[fits + 1 :]) == {"score"}


def test_a_fitted_detector_equals_a_loop_over_the_training_part() -> None:
    network, scores = new_network(), run({"means": ClassMeans()}).scores
    order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(0))[HELD_OUT:]
    train, label = source_of("train").images.image[order], source_of("train").images.label[order]
    with torch.no_grad():
        feature = network.observe(train / 255).feature.double()
        far = network.observe(source_of("far").images.image / 255).feature.double()
    means = [feature[label == k].mean(dim=0) for k in range(3)]
    expected = [-min(float((x - mean).norm()) for mean in means) for x in far]
    assert column(scores, "means", "far").tolist() == pytest.approx(expected, rel=1e-4)


def test_scores_do_not_depend_on_the_precision_of_the_trainer_unless_asked_to() -> None:
    detectors = {"msp": MSP(), "norm": FeatureNorm()}
    full = run(detectors).scores.score
    assert run(detectors, precision="bf16-mixed").scores.score.equal(full)
    half = run(detectors, precision="bf16-mixed", autocast=True).scores.score
    assert not half.equal(full)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)
    assert run(detectors, autocast=True).scores.score.equal(full)


def test_each_block_gives_one_column_per_block() -> None:
    scores = run({"norm": FeatureNorm("each_block"), "chosen": FeatureNorm()}).scores
    assert scores.detectors == (*(f"norm@{block}" for block in BLOCKS), "chosen")
    assert column(scores, "chosen", "near").equal(column(scores, "norm@layer3.0", "near"))


def test_a_wrapped_detector_at_each_block_gives_one_column_per_block() -> None:
    scores = run({"knn": Perturbed(KNN(3, at="each_block"))}).scores
    assert scores.detectors == tuple(f"knn@{block}" for block in BLOCKS)
    assert scores.score.std(dim=1).gt(0).all()


def test_what_a_reader_needs_of_the_network_is_computed_once_and_before_it_reads() -> None:
    network, sizes = new_network(), []
    network.net.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    scores = run({"fssd": FSSD(combine="last", noise_images=7)}, network=network).scores
    assert sizes[0] == 7
    assert sizes.count(7) == 1
    with torch.no_grad():
        seen = new_network().observe(source_of("far").images.image / 255)
        expected = FSSD(combine="last", noise_images=7).score(seen)
    torch.testing.assert_close(column(scores, "fssd", "far"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_detector_sees_only_the_part_that_it_is_fitted_on(
    part: Literal["train", "validation"],
) -> None:
    detector, other = ClassMeans(part), ClassMeans("train")
    run({"one": detector, "other": other})
    assert sorted(detector.index) == list(range(FIT if part == "train" else HELD_OUT))
    assert sorted(other.index) == list(range(FIT))


def test_labels_of_ood_images_are_dropped() -> None:
    scores = run({"msp": MSP()}).scores
    assert (scores.label[scores.source > 0] == -1).all()
    assert scores.label[scores.source == 0].tolist() == [i % 3 for i in range(COUNTS["id"])]


def test_a_second_test_gives_the_same_scores() -> None:
    data = new_data()
    benchmark = Benchmark(new_network(), {"msp": MSP(), "norm": FeatureNorm()}, data.sources)
    scores, passes = [], []
    for _ in range(2):
        new_trainer().test(benchmark, datamodule=data, verbose=False)
        scores.append(benchmark.scores.score)
        passes.append(benchmark.forward_passes)
    assert scores[0].equal(scores[1])
    assert passes[0] == passes[1]


def test_without_a_selection_the_selected_block_is_refused_before_any_forward() -> None:
    network, forwards = new_network(), []
    network.norm_ratio = {}
    network.net.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(RuntimeError, match="no block selected"):
        run({"msp": MSP(), "norm": FeatureNorm()}, network=network)
    assert not forwards
    scores = run({"msp": MSP(), "norm": FeatureNorm("layer2.0")}, network=network).scores
    assert scores.counts == COUNTS


def test_a_detector_at_an_unknown_block_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="block of ResNet, got 'layer9'"):
        Benchmark(new_network(), {"norm": FeatureNorm("layer9")}, tuple(COUNTS))


def test_a_wrapped_detector_at_the_selected_block_needs_a_selection() -> None:
    network = new_network()
    network.norm_ratio = {}
    for detector in (Perturbed(FeatureNorm()), FSSD(["selected"]), FeatureNorm()):
        assert Benchmark(network, {"one": detector}, tuple(COUNTS)).needs_selection
    assert not Benchmark(network, {"one": FSSD()}, tuple(COUNTS)).needs_selection


def test_loaders_that_do_not_match_the_sources_are_refused() -> None:
    data = new_data()
    benchmark = Benchmark(new_network(), {"means": ClassMeans()}, data.sources)
    with pytest.raises(ValueError, match=r"loaders train, id, .*, got 4 loaders; start it with"):
        new_trainer().test(benchmark, datamodule=data, verbose=False)


class Fails(MSP):
    """Scores so many batches and no more."""

    def __init__(self, batches: float) -> None:
        super().__init__()
        self.batches = batches

    def score(self, seen: ForwardPass) -> Tensor:
        self.batches -= 1
        if self.batches < 0:
            raise RuntimeError("cut off")
        return super().score(seen)


def kept_run(folder: Path, batches: float, network: Network) -> Benchmark:
    data = new_data()
    detectors = {"she": SHE(), "msp": Fails(batches)}
    benchmark = Benchmark(network, detectors, data.sources)
    benchmark.run(new_trainer(), data, keep_in=folder)
    return benchmark


@pytest.mark.parametrize("sources", range(len(COUNTS)))
def test_a_benchmark_that_was_cut_off_goes_on_at_the_source_where_it_was(
    sources: int, tmp_path: Path
) -> None:
    whole = kept_run(tmp_path / "whole", inf, new_network())
    batches = [ceil(count / BATCH) for count in COUNTS.values()]
    with pytest.raises(RuntimeError, match="cut off"):
        kept_run(tmp_path / "cut", sum(batches[:sources]), new_network())
    rest = kept_run(tmp_path / "cut", inf, new_network())
    assert rest.remaining == tuple(COUNTS)[sources:]
    assert rest.fit_on == ()
    assert rest.scores.score.equal(whole.scores.score)
    assert rest.scores.index.equal(whole.scores.index)
    assert rest.scores.prediction.equal(whole.scores.prediction)
    assert rest.forward_passes == whole.forward_passes


def test_what_a_benchmark_of_other_weights_has_left_is_not_taken(tmp_path: Path) -> None:
    kept_run(tmp_path, inf, new_network())
    other = new_network()
    with torch.no_grad():
        other.head.bias[0] += 1
    assert kept_run(tmp_path, inf, other).scores.score.equal(
        kept_run(tmp_path / "new", inf, other).scores.score
    )


class Retouched(Memory):
    """The images of a source with one pixel or one label changed."""

    def __init__(self, name: str, *, label: bool = False) -> None:
        self.images = images = source_of(name).images
        if label:
            images.label[0] = (images.label[0] + 1) % 3
        else:
            images.image[0, 0, 0, 0] ^= 255


def gone_on_with(
    folder: Path, harm: Callable[[Path], object], data: ImageData, settings: str = ""
) -> Benchmark:
    """A benchmark that is cut off after a fit and two of four sources, then harmed, and ends."""
    with pytest.raises(RuntimeError, match="cut off"):
        kept_run(folder, ceil(COUNTS["id"] / BATCH) + ceil(COUNTS["near"] / BATCH), new_network())
    harm(folder)
    detectors = {"she": SHE(), "msp": MSP()}
    benchmark = Benchmark(new_network(), detectors, data.sources)
    benchmark.run(new_trainer(), data, keep_in=folder, settings=settings)
    fresh = Benchmark(new_network(), {"she": SHE(), "msp": MSP()}, data.sources)
    fresh.run(new_trainer(), data)
    assert benchmark.scores.score.equal(fresh.scores.score)
    assert benchmark.scores.label.equal(fresh.scores.label)
    assert benchmark.forward_passes == fresh.forward_passes
    return benchmark


@pytest.mark.parametrize(
    ("name", "label", "again"),
    [
        ("near", False, ("near", "far", "single")),
        ("id", True, ("id", "far", "single")),
        ("far", False, ("far", "single")),
        ("train", False, tuple(COUNTS)),
        ("train", True, tuple(COUNTS)),
    ],
)
def test_what_has_changed_since_is_scored_again_and_nothing_else(
    name: str, label: bool, again: tuple[str, ...], tmp_path: Path
) -> None:
    data = new_data()
    data.named[name] = Retouched(name, label=label)
    benchmark = gone_on_with(tmp_path, lambda folder: None, data)
    assert benchmark.remaining == again
    assert benchmark.fit_on == (("train",) if name == "train" else ())


def test_what_was_scored_with_other_settings_is_scored_again(tmp_path: Path) -> None:
    benchmark = gone_on_with(tmp_path, lambda folder: None, new_data(), settings="she: {k: 2}")
    assert (benchmark.fit_on, benchmark.remaining) == (("train",), tuple(COUNTS))


@pytest.mark.parametrize("file", ["fit.pt", "scores.pt"])
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "other"])
def test_a_kept_file_that_is_damaged_is_made_again_and_says_so(
    file: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def harm(folder: Path) -> None:
        path = folder / file
        content = bytearray(path.read_bytes())
        if how == "flipped":
            content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "flipped" else content[:50] if how == "cut" else b"")
        if how == "other":
            torch.save({"weights": "0"}, path)

    benchmark = gone_on_with(tmp_path, harm, new_data())
    assert f"{tmp_path / file} is damaged or of an earlier version" in caplog.text
    assert benchmark.remaining == tuple(COUNTS)
    assert benchmark.fit_on == (("train",) if file == "fit.pt" else ())


def test_scores_of_an_earlier_fit_are_not_taken_beside_a_later_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cut off"):
        kept_run(tmp_path, 5, new_network())
    (tmp_path / "fit.pt").unlink()
    with pytest.raises(RuntimeError, match="cut off"):  # after another fit, before any source
        kept_run(tmp_path, 0, new_network())
    assert [*tmp_path.iterdir()] == [tmp_path / "fit.pt"]


def test_of_a_benchmark_that_ended_only_the_last_source_is_scored_again(tmp_path: Path) -> None:
    whole = kept_run(tmp_path, inf, new_network())
    again = kept_run(tmp_path, inf, new_network())
    assert (again.fit_on, again.remaining) == ((), ("single",))
    assert again.scores.score.equal(whole.scores.score)
    assert again.forward_passes == whole.forward_passes
