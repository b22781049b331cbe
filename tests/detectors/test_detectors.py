"""The contract of all detectors."""

import importlib
import pkgutil
from collections.abc import Callable
from inspect import Parameter, signature
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp

from src import detectors
from src.data import distortions
from src.data.distortions import Blur, Zoom
from src.data.pseudo_ood import Jigsaw
from src.detectors import (
    ASH,
    CORE,
    DICE,
    FSSD,
    GEN,
    HDFF,
    KNN,
    MSP,
    NAC,
    NAN,
    NECO,
    NMD,
    PRO,
    RMDS,
    AdaSCALE,
    CADRef,
    CombOOD,
    Conformal,
    CoRP,
    Detector,
    DividedByNAN,
    Energy,
    FeatureNorm,
    Gram,
    Mahalanobis,
    MatchedNorm,
    MaxLogit,
    MultiLayerMahalanobis,
    NormProduct,
    NormProfile,
    OpenMax,
    Perturbed,
    RankFeat,
    ReAct,
    RescaledMap,
    Residual,
    RotPred,
    SelectedNorm,
    StandardizedNormProduct,
    ViM,
    expand_blocks,
)
from src.detectors.shaping import Shaping
from src.network import Network

BLOCKS = ("1", "3")
EXPORTED: list[type[Detector]] = [
    value
    for name in detectors.__all__
    if isinstance(value := getattr(detectors, name), type) and value is not Detector
]
POOL = {"jigsaw": Jigsaw(2, border="keep", identity=False), "blur": Blur(9), "zoom": Zoom()}
# variants beside the default, and what stands for a default that does not suit 96 small images
VARIANTS: list[Callable[[], Detector]] = [
    lambda: Energy(temperature=0.1),
    lambda: Energy(temperature=1000.0),
    lambda: MSP(temperature=1000.0),
    lambda: FeatureNorm(at="1"),
    lambda: NAN(at="selected"),
    lambda: NAN(at="1", pool_first=False),
    lambda: SelectedNorm(MSP()),
    lambda: SelectedNorm(at="1"),
    lambda: MatchedNorm(MSP()),
    lambda: ReAct(MaxLogit(), percent=99.0),
    lambda: ASH(MaxLogit(), variant="p", percent=60.0),
    lambda: ASH(variant="b"),
    lambda: Perturbed(MSP(), epsilon=0.01),
    lambda: Perturbed(MSP(), pixels="largest"),
    lambda: Perturbed(FeatureNorm(at="1")),
    lambda: Perturbed(SelectedNorm(Energy())),
    lambda: AdaSCALE(variant="l"),
    lambda: StandardizedNormProduct(MSP(), at="1"),
    lambda: Mahalanobis(at="selected"),
    lambda: KNN(3, bank_size=40, at="1"),
    lambda: FSSD(combine="last"),
    lambda: FSSD(step=0.001),
    lambda: HDFF(pool="mean", hd_dim=50),
    lambda: CADRef(decouple=False),
    lambda: CORE(rowspace=True),
    lambda: NECO(3, max_logit=True),
    lambda: NormProfile(POOL, statistics=["norm"], nonnegative=True),
    lambda: PRO(GEN(), epsilon=0.01, steps=3),
    lambda: Conformal([NAN(at="each_block"), Energy()]),
]
INSTEAD: dict[type[Detector], Callable[[], Detector]] = {
    DICE: lambda: DICE(percent=70.0),
    DividedByNAN: lambda: DividedByNAN(KNN(10)),
    KNN: lambda: KNN(10),
    NAC: lambda: NAC(alpha=3.0),  # its bins are many for 96 images, and the default saturates
    OpenMax: lambda: OpenMax(tail=3),
    CombOOD: lambda: CombOOD(10),
    CoRP: lambda: CoRP(width=64),
}


def built(kind: type[Detector], **arguments: Any) -> Detector:
    """One of its kind, around Energy if it wraps another detector, with puzzles for a pool."""
    for name, value in (("detector", Energy()), ("pool", POOL)):
        parameter = signature(kind).parameters.get(name)
        if parameter is not None and parameter.default is Parameter.empty:
            arguments[name] = value
    return kind(**arguments)


def build_default(kind: type[Detector]) -> Callable[[], Detector]:
    return INSTEAD.get(kind, lambda: built(kind))


DETECTORS = [*map(build_default, EXPORTED), *VARIANTS]
PLACED = [(kind, "at", "nope") for kind in EXPORTED if "at" in signature(kind).parameters]
PLACED += [
    (kind, "blocks", ["1", "nope"]) for kind in EXPORTED if "blocks" in signature(kind).parameters
]
# tell apart what ID images never do, not what they do faintly
SEES_FOREIGN = (NAC, OpenMax, Residual, ViM)
every_detector = pytest.mark.parametrize("build", DETECTORS, ids=lambda build: repr(build()))


def new_network() -> Network:
    """Fires on the edges it was built for; class 0 for bright left halves, 1 for right ones."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2, bias=False),
    )  # fmt: skip
    vertical = torch.tensor([[-1.0, 0.0, 1.0]] * 3)  # an edge filter, and its mirror image
    net[0].weight.data = torch.stack([vertical, -vertical])[:, None]
    net[5].weight.data = torch.tensor([[-1.0] * 16 + [1.0] * 16, [1.0] * 16 + [-1.0] * 16])
    network = Network(
        net, BLOCKS, image_shape=(1, 8, 8), mean=0.5, std=0.5, rotation_head=True
    ).eval()
    network.rotation_head.weight.data.zero_()  # turned edges are no edges, as it sees them
    network.norm_ratio = {"1": 1.0, "3": 2.0}
    return network


def edges(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Strong vertical edges with a little noise, as the network knows them, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    contrast = torch.linspace(0.5, 1, n)[torch.randperm(n, generator=generator)]
    image = contrast.view(-1, 1, 1, 1) * (torch.arange(8) < 4).float().expand(n, 1, 8, 8)
    label = torch.arange(n) % 2
    image = torch.where(label.view(-1, 1, 1, 1) == 0, image, image.flip(3))
    return image + 0.05 * torch.rand(image.shape, generator=generator), label


def fitted(build: Callable[[], Detector], network: Network, *sizes: int) -> Detector:
    """A detector that has seen 96 images, in batches of given sizes, and concluded."""
    detector = build()
    image, label = edges(96, seed=1)
    with torch.no_grad():
        for row in torch.arange(96).split(list(sizes) or 32):
            seen = network.observe(image[row])
            detector.update(seen, label[row], row)
        detector.fit(network)
    return detector


@pytest.fixture
def network() -> Network:
    return new_network()


@pytest.fixture
def id_image() -> Tensor:
    """(16, 1, 8, 8)."""
    return edges(16, seed=2)[0]


@pytest.fixture
def ood_image() -> Tensor:
    """(16, 1, 8, 8): faint noise."""
    noise = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return 0.5 + 0.02 * noise


def test_every_detector_of_the_package_is_exported_and_under_test() -> None:
    """Those of pytorch-ood are tested where it is installed."""
    modules = [
        importlib.import_module(f"src.detectors.{module.name}")
        for module in pkgutil.iter_modules(detectors.__path__)
        if module.name not in ("base", "log_odds", "wrapper", "pytorch_ood")
    ]
    written = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Detector)
        if value.__module__ == module.__name__ and value.__name__ in module.__all__
    }
    assert written - {Shaping} == set(EXPORTED) == {type(build()) for build in DETECTORS}


@every_detector
def test_a_score_is_one_finite_number_per_image(
    build: Callable[[], Detector], network: Network, id_image: Tensor, ood_image: Tensor
) -> None:
    detector = fitted(build, network)
    for image in (id_image, ood_image, torch.zeros(1, 1, 8, 8), 1000 * id_image, id_image[:0]):
        score = detector.score(network.observe(image))
        assert score.shape == (len(image),)
        assert score.is_floating_point()
        assert score.isfinite().all()


@every_detector
def test_a_score_does_not_depend_on_the_other_images_of_the_batch(
    build: Callable[[], Detector], network: Network, id_image: Tensor, ood_image: Tensor
) -> None:
    detector = fitted(build, network)
    seen = network.observe(torch.cat([id_image, ood_image]))
    whole = detector.score(seen)
    for size in (1, 3, 8):
        row = torch.arange(32).div(size, rounding_mode="floor")
        parts = [detector.score(seen.rows(row == part)) for part in row.unique()]
        rough = "KNN" in repr(detector) or isinstance(detector, CombOOD)  # cosines in float32
        noise = {"rtol": 1e-4, "atol": 1e-3} if rough else {"rtol": 1e-6, "atol": 0}
        if isinstance(detector, RescaledMap):  # one more forward pass in float32
            noise = {"rtol": 1e-5, "atol": 0}
        torch.testing.assert_close(torch.cat(parts), whole, **noise)


@every_detector
def test_in_distribution_images_score_higher(
    build: Callable[[], Detector], network: Network, id_image: Tensor, ood_image: Tensor
) -> None:
    detector = fitted(build, network)
    if isinstance(detector, SEES_FOREIGN):
        ood_image = 50 * ood_image - 25
    score = [detector.score(network.observe(image)) for image in (id_image, ood_image)]
    if isinstance(detector, OpenMax):  # the largest of the ID images themselves are in its tail
        assert (score[0][:, None] > score[1]).double().mean() > 0.9
    else:
        assert score[0].min() > score[1].max()


@every_detector
def test_it_scores_alike_from_what_it_names_and_from_whole_maps(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    detector = fitted(build, network)
    with torch.no_grad():
        seen = network.observe(id_image, keep_maps=False, read=detector.reads(network))
        assert not seen.feature_map
        assert detector.score(seen).equal(detector.score(network.observe(id_image)))


@every_detector
def test_it_works_in_inference_mode_and_changes_nothing(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    detector = fitted(build, network)
    with torch.no_grad():
        expected = detector.score(network.observe(id_image))
    with torch.inference_mode():
        seen = network.observe(id_image)
        before = [seen.image, seen.logits, seen.feature, *seen.feature_map.values()]
        copies = [tensor.clone() for tensor in before]
        assert detector.score(seen).equal(expected)
        detector.update(seen, torch.zeros(16, dtype=torch.int64), torch.arange(16))
        assert all(map(torch.equal, copies, before))


@every_detector
def test_any_split_of_the_stream_gives_the_same_scores(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    seen = network.observe(id_image)
    expected = fitted(build, network, 96).score(seen)
    for sizes in ((1, 95), (30, 0, 36, 30)):
        score = fitted(build, network, *sizes).score(seen)
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)


@every_detector
def test_a_second_fit_forgets_the_first(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    expected = fitted(build, network).score(network.observe(id_image))
    detector = build()
    image, label = edges(50, seed=9)
    detector.update(network.observe(0.3 * image), label, torch.arange(50))
    detector.fit(network)
    detector.reset()
    again = fitted(lambda: detector, network).score(network.observe(id_image))
    torch.testing.assert_close(again, expected, rtol=1e-6, atol=1e-7)


@every_detector
def test_what_it_learned_is_saved_and_loaded(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    detector, file = fitted(build, network), BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    loaded = build()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    seen = network.observe(id_image)
    assert loaded.score(seen).equal(detector.score(seen))


@every_detector
def test_to_score_before_the_fit_is_a_clear_error(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    detector = build()
    if detector.is_fitted_on_data:
        with pytest.raises(RuntimeError, match=r"expected a fitted .*; run a Benchmark"):
            detector.score(network.observe(id_image))
    else:
        detector.fit(network)
        assert detector.score(network.observe(id_image)).isfinite().all()


PASSES = {
    Perturbed: (0, 2), AdaSCALE: (2, 2), RankFeat: (0, 2), RescaledMap: (0, 1),
    RotPred: (0, 3),
    NormProfile: (len(POOL), 0), NMD: (len(POOL), 0),
}  # fmt: skip


def passes(detector: Detector) -> tuple[int, int]:
    """How often it runs the network itself, in `update` and in `score`."""
    if isinstance(detector, FSSD) and detector.step:
        return 1 + len(BLOCKS), 1 + len(BLOCKS)
    if isinstance(detector, PRO):
        return 0, 2 * detector.steps
    return PASSES.get(type(detector), (0, 0))


@every_detector
def test_the_network_is_run_as_often_as_the_docstring_says(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    detector = fitted(build, network)
    update, score = passes(detector)
    seen, forwards = network.observe(id_image), []
    network.net.register_forward_hook(lambda *_: forwards.append(1))
    detector.score(seen)
    assert len(forwards) == score
    seen = network.observe(id_image)
    forwards.clear()
    detector.update(seen, torch.zeros(16, dtype=torch.int64), torch.arange(16))
    assert len(forwards) == update
    if update or score:
        assert "Extra passes:" in str(type(detector).__doc__)


@every_detector
def test_to_name_what_it_reads_runs_nothing_and_changes_nothing(
    build: Callable[[], Detector], network: Network
) -> None:
    detector, calls = build(), []
    for module in network.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    before = [*detector.state_dict()], repr(detector), [*detector.named_modules()]
    pairs = tuple(detector.reads(network))
    assert pairs == tuple(detector.reads(network))
    assert {block for block, _ in pairs} <= set(BLOCKS)
    assert not calls
    assert ([*detector.state_dict()], repr(detector), [*detector.named_modules()]) == before


@every_detector
def test_it_can_score_alone_in_a_pass_that_keeps_no_map(
    build: Callable[[], Detector], network: Network, id_image: Tensor
) -> None:
    detector, (image, label) = build(), edges(96, seed=1)
    with torch.no_grad():
        for part in (image, id_image):
            detector.prepare(network)
            seen = network.observe(part, keep_maps=False, read=detector.reads(network))
            if part is image:
                detector.update(seen, label, torch.arange(96))
                detector.fit(network)
        score = detector.score(seen)
    expected = fitted(build, network, 96).score(network.observe(id_image))
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-7)


def test_detectors_that_need_gradients_share_a_pass(network: Network, id_image: Tensor) -> None:
    detectors = [Perturbed(MSP()), Perturbed(FeatureNorm(at="1")), FSSD(combine="last", step=0.1)]
    alone = [detector.score(network.observe(id_image)) for detector in detectors]
    seen, forwards = network.observe(id_image), []
    network.net.register_forward_hook(lambda *_: forwards.append(1))
    together = [detector.score(seen) for detector in detectors]
    assert len(forwards) == 1 + len(detectors)
    assert all(map(torch.equal, together, alone))


@every_detector
def test_the_repr_builds_it_again(build: Callable[[], Detector]) -> None:
    detector = build()
    again = eval(repr(detector), vars(distortions) | {"Jigsaw": Jigsaw} | vars(detectors))
    assert repr(again) == repr(detector)
    for name, value in vars(detector).items():
        if isinstance(value, int | float | str | tuple) or value is None:
            assert getattr(again, name) == value


def fit_one_half(rank: int, folder: Path) -> None:
    """One of two processes: sees every second image, leaves the scores of all detectors."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    network, (image, label) = new_network(), edges(96, seed=1)
    row = torch.arange(rank, 96, 2)
    scores = []
    for build in DETECTORS:
        detector = build()
        with torch.no_grad():
            for part in row.split([20, 28] if rank else [48, 0]):  # of unequal sizes
                detector.update(network.observe(image[part]), label[part], part)
            detector.fit(network)
            scores.append(detector.score(network.observe(edges(16, seed=2)[0])))
    torch.save(scores, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_score_as_one_does(
    tmp_path: Path, network: Network, id_image: Tensor
) -> None:
    mp.spawn(fit_one_half, (tmp_path,), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for build, first, second in zip(DETECTORS, *both, strict=True):
        assert first.equal(second)
        expected = fitted(build, network).score(network.observe(id_image))
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6, msg=repr(build()))


def test_feature_norm_is_the_norm_of_its_block(network: Network, id_image: Tensor) -> None:
    seen = network.observe(id_image)
    for block in BLOCKS:
        rectified = seen.feature_map[block].double().clamp_min(0)
        expected = torch.stack([(c**2).sum().sqrt() for x in rectified for c in x]).view(16, -1)
        score = FeatureNorm(at=block).score(seen)
        torch.testing.assert_close(score.double(), expected.mean(dim=1), rtol=1e-6, atol=0)


def test_the_selected_block_is_looked_up_when_scoring(network: Network, id_image: Tensor) -> None:
    detector, seen = FeatureNorm(), network.observe(id_image)
    for first, second in ((2.0, 1.0), (1.0, 2.0)):
        network.norm_ratio = {"1": first, "3": second}
        assert detector.score(seen).equal(seen.norm["1" if first > second else "3"])
    network.norm_ratio = {}
    with pytest.raises(RuntimeError, match="no block selected"):
        detector.score(seen)


def test_each_block_becomes_one_column_per_block(network: Network, id_image: Tensor) -> None:
    named = {
        "norm": FeatureNorm("each_block"), "other_each_block": FeatureNorm("each_block"),
        "former@each_block": FeatureNorm("each_block"), "msp": MSP(), "selected": FeatureNorm(),
    }  # fmt: skip
    columns = expand_blocks(named, network)
    assert list(columns) == [
        "norm@1", "norm@3", "other@1", "other@3", "former@1", "former@3", "msp", "selected"
    ]  # fmt: skip
    seen = network.observe(id_image)
    for block in BLOCKS:
        assert columns[f"norm@{block}"].score(seen).equal(seen.norm[block])
    assert named["norm"].at == "each_block"
    assert columns["msp"] is named["msp"]
    assert len({id(detector) for detector in columns.values()}) == len(columns)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda detector: detector,
        DividedByNAN,
        lambda detector: Perturbed(DividedByNAN(detector)),
        lambda detector: NormProduct(detector, at="1"),
    ],
    ids=["alone", "wrapped", "wrapped twice", "wrapped at a block"],
)
@pytest.mark.parametrize(
    ("kind", "argument", "value"), PLACED, ids=[f"{kind.__name__}" for kind, *_ in PLACED]
)
def test_a_block_that_the_network_does_not_have_is_refused_early(
    network: Network,
    kind: type[Detector],
    argument: str,
    value: Any,
    wrap: Callable[[Detector], Detector],
) -> None:
    detector = wrap(built(kind, **{argument: value}))
    with pytest.raises(ValueError, match="block of Sequential, got 'nope'; blocks are 1, 3"):
        expand_blocks({"name": detector}, network)


@pytest.mark.parametrize(
    ("kind", "argument"),
    [(kind, argument) for kind, argument, _ in PLACED if argument == "blocks"],
)
def test_an_empty_list_of_blocks_is_refused(kind: type[Detector], argument: str) -> None:
    with pytest.raises(ValueError, match="expected at least one block, got none; name one"):
        built(kind, **{argument: []})


@pytest.mark.parametrize(
    "detector",
    [
        *(built(kind, at="each_block") for kind, argument, _ in PLACED if argument == "at"),
        Perturbed(SelectedNorm(MSP(), at="each_block")),
        DividedByNAN(KNN(at="each_block")),
        ASH(DividedByNAN(KNN(at="each_block"))),
        NormProduct(DividedByNAN(KNN(at="each_block")), at="3"),
        NormProduct(KNN(at="1"), at="each_block"),
        Perturbed(NormProduct(FeatureNorm(at="each_block"), at="selected")),
    ],
    ids=repr,
)
def test_each_block_reaches_the_detector_that_reads_it(
    detector: Detector, network: Network
) -> None:
    before = repr(detector)
    columns = expand_blocks({"name": detector}, network)
    assert list(columns) == ["name@1", "name@3"]
    for block in BLOCKS:
        column = columns[f"name@{block}"]
        assert repr(column) == before.replace("'each_block'", repr(block))
        assert block in column.named_blocks()
    assert repr(detector) == before


def test_the_column_of_a_wrapped_detector_scores_its_own_block(
    network: Network, id_image: Tensor
) -> None:
    named = {"odin": Perturbed(SelectedNorm(MSP(), at="each_block"))}
    seen = network.observe(id_image)
    for block in BLOCKS:
        column = expand_blocks(named, network)[f"odin@{block}"]
        assert column.score(seen).equal(Perturbed(SelectedNorm(MSP(), at=block)).score(seen))


def test_a_wrapper_is_where_its_detector_is() -> None:
    inner = KNN(at="1")
    outer = Perturbed(DividedByNAN(inner))
    assert outer.at == "1"
    inner.at = "3"
    assert outer.at == "3"
    outer.at = "selected"
    assert inner.at == "selected"
    assert NormProduct(inner, at="1").at == "1"


@pytest.mark.parametrize("kind", [SelectedNorm, NormProduct])
def test_two_blocks_that_vary_are_refused(kind: type[Detector]) -> None:
    inner = DividedByNAN(KNN(at="each_block"))
    with pytest.raises(ValueError, match=r"one block to vary, got .* name a block for one of"):
        kind(inner, at="each_block")  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (HDFF(hd_dim=1), "hd_dim of at least 2, the channels of '1', got 1"),
        (HDFF(["1"], hd_dim=1), "hd_dim of at least 2, the channels of '1', got 1"),
        (ViM(32), "expected a dimension below that of the feature, 32, got 32"),
        (DividedByNAN(Residual(99)), "expected a dimension below that of the feature, 32, got 99"),
    ],
    ids=repr,
)
def test_what_does_not_fit_the_network_is_refused_early(
    network: Network, detector: Detector, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        expand_blocks({"name": detector}, network)


@every_detector
def test_a_single_class_is_refused_early_or_scored(build: Callable[[], Detector]) -> None:
    torch.manual_seed(0)  # CADRef refuses a network whose mean energy is negative
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ReLU(), nn.ReLU())
    net.extend([nn.Flatten(), nn.Linear(72, 1)])
    network = Network(net, BLOCKS, image_shape=(1, 8, 8), rotation_head=True).eval()
    network.norm_ratio = {"1": 1.0, "3": 2.0}
    try:
        expand_blocks({"name": build()}, network)
    except ValueError as error:
        assert "expected a network of at least two classes, got one" in str(error)  # noqa: PT017
        return
    detector = build()
    detector.update(
        network.observe(edges(96, seed=1)[0]), torch.zeros(96).long(), torch.arange(96)
    )
    detector.fit(network)
    score = detector.score(network.observe(2 * edges(16, seed=2)[0]))
    assert score.unique().numel() > 1


@pytest.mark.parametrize("build", [FSSD, Gram, HDFF, MultiLayerMahalanobis, RankFeat, RMDS])
def test_the_selected_block_needs_no_selection_before_the_training(
    build: type[Detector], network: Network
) -> None:
    network.norm_ratio = {}
    placed = build(at="selected") if build is RMDS else build(["selected"])  # type: ignore[call-arg]
    assert list(expand_blocks({"name": placed}, network)) == ["name"]
    assert placed.named_blocks() == ("selected",)


def test_a_detector_must_say_how_it_scores(network: Network, id_image: Tensor) -> None:
    with pytest.raises(NotImplementedError):
        Detector().score(network.observe(id_image))
