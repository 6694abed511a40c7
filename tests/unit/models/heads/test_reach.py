"""Settings of heads that the embeddings of a training leave without effect are named, with the lengths seen."""

import pytest
import torch

from metrad.models.heads import (
    AdaCos,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    DynamicAdaCos,
    L2Softmax,
    MagFace,
    NormFace,
    PytorchMetricLearning,
    Reach,
    Softmax,
    SphereFace,
    SubClusterAdaCos,
)

LABELS = torch.arange(48) % 4


def embeddings(shortest, longest):
    torch.manual_seed(1)
    lengths = torch.linspace(shortest, longest, len(LABELS))[:, None]
    return torch.nn.functional.normalize(torch.randn(len(LABELS), 6)) * lengths


def told(head, *batches):
    reach = Reach()
    for batch in batches:
        head(batch, LABELS)
        reach.update(head, batch, LABELS)
    return reach.without_effect(head)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_magface_is_arcface_bit_for_bit_for_short_embeddings():
    magface, arcface, short = MagFace(6, 4), ArcFace(6, 4, scale=64.0, margin=0.45), embeddings(1, 9.9)
    arcface.load_state_dict(magface.state_dict())
    gradients = []
    for head in (magface, arcface):
        x = short.clone().requires_grad_()
        head(x, LABELS)[0].backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ((1, 9.9), ("100% of the embeddings were at most 10 long", "margin=0.45", "in training: 1 to 9.9")),
        ((120, 300), ("100% at least 110", "margin=0.8", "120 to 300")),
    ],
)
def test_lengths_out_of_magfaces_reach_are_told(lengths, words):
    (line,) = told(MagFace(6, 4), embeddings(*lengths))
    assert [word for word in ("head.lengths=[10.0, 110.0]", "was ArcFace", *words) if word not in line] == []


@pytest.mark.parametrize("lengths", [(9, 12), (20, 60), (50, 200)])
def test_lengths_within_magfaces_reach_are_not_told(lengths):
    assert told(MagFace(6, 4), embeddings(*lengths)) == []


def test_the_whole_training_counts_and_not_one_batch():
    assert told(MagFace(6, 4), embeddings(1, 9), embeddings(20, 60)) == []


def test_adaface_tells_that_lengths_do_not_spread_beside_its_running_deviation():
    (line,) = told(AdaFace(6, 4), embeddings(2, 9))
    assert "head.concentration=0.333 and head.momentum=0.01 had hardly an effect" in line
    assert "lengths of the embeddings in training: 2 to 9" in line


def test_adaface_tells_that_all_lengths_are_clipped_alike():
    assert "hardly an effect" in told(AdaFace(6, 4), embeddings(200, 300))[0]


def test_adaface_tells_nothing_where_the_margins_of_images_differ():
    assert told(AdaFace(6, 4, momentum=1.0), embeddings(2, 9)) == []


def test_reach_changes_no_head():
    head = AdaFace(6, 4)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    Reach().update(head, embeddings(2, 9), LABELS)
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (AdaFace(6, 4, margin=0.0), "head.margin=0 is no margin"),
        (SphereFace(6, 4, margin=1), "head.easing=5 has no effect"),
        (SphereFace(6, 4, easing=1000.0), "head.easing=1000 leaves head.margin=4 hardly an effect"),
        (MagFace(6, 4, margins=(0.5, 0.5), regulariser=0.0), "head.lengths=[10.0, 110.0] have no effect"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_settings_that_leave_others_without_effect_are_told(head, words):
    assert words in told(head, embeddings(20, 60))[0]


def test_sphereface_tells_that_embeddings_are_too_short_for_any_margin():
    assert "nearly all embeddings were shorter than 0.1" in told(SphereFace(6, 4), embeddings(0.001, 0.05))[0]


def separated(head):
    """Return embeddings that point as the weights of their classes, which point apart."""
    torch.nn.init.orthogonal_(head.weight)
    return 5 * head.weight.detach()[LABELS * head.sub_centers]


def test_curricularface_tells_that_no_class_was_hard():
    head = CurricularFace(6, 4)
    assert "was ArcFace with head.margin=0.5" in told(head, separated(head))[0]
    assert told(CurricularFace(6, 4), embeddings(2, 9)) == []


@pytest.mark.parametrize("make", [DynamicAdaCos, lambda *sizes: SubClusterAdaCos(*sizes, sub_centers=1, adaptive=True)])
def test_an_adaptive_scale_that_stays_at_its_least_is_told(make):
    head = make(6, 3)
    head.scale.fill_(0.1)
    reach = Reach()
    reach.update(head, embeddings(2, 9), LABELS % 3)
    assert "stayed at its least, 0.1" in reach.without_effect(head)[0]
    assert told(make(6, 4), embeddings(2, 9)) == []


def test_centres_that_are_never_the_nearest_are_told():
    head = ArcFace(6, 4, sub_centers=3)
    assert told(head, embeddings(2, 9)) == []
    with torch.no_grad():
        head.weight.view(4, 3, 6)[:, 1:] = -head.weight.view(4, 3, 6)[:, :1]
    (line,) = told(head, 5 * head.weight.detach().view(4, 3, 6)[LABELS, 0])
    assert line.startswith("head.sub_centers=3 had hardly an effect")


def test_centres_of_a_sub_cluster_that_point_the_same_way_are_told():
    head = SubClusterAdaCos(6, 4, sub_centers=2)
    assert told(head, embeddings(2, 9)) == []
    with torch.no_grad():
        head.weight.view(4, 2, 6)[:, 1] = head.weight.view(4, 2, 6)[:, 0]
    assert "an effect on the scale alone" in told(head, embeddings(2, 9))[0]


@pytest.mark.parametrize("make", [AdaCos, ArcFace, CosFace, L2Softmax, NormFace, Softmax, SphereFace])
def test_heads_whose_settings_reach_any_embedding_tell_nothing(make):
    assert told(make(6, 4), embeddings(2, 9)) == []


def test_nothing_is_told_without_training():
    assert Reach().without_effect(MagFace(6, 4)) == []


def test_the_reach_of_a_resumed_training_covers_the_epochs_before():
    head, first, second = MagFace(6, 4), Reach(), Reach()
    first.update(head, embeddings(20, 60), LABELS)
    second.load_state_dict(first.state_dict())
    second.update(head, embeddings(1, 2), LABELS)
    assert (second.images, float(second.shortest), round(float(second.longest), 3)) == (96, 1.0, 60.0)
    assert second.without_effect(head) == []


def test_losses_of_pytorch_metric_learning_tell_nothing():
    assert told(PytorchMetricLearning(6, 4, loss="ProxyAnchorLoss"), embeddings(2, 9)) == []
