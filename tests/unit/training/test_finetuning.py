"""What holds an embedder back in training, features of several layers, and whitening."""

import copy

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics.pairwise import paired_cosine_distances
from torch import nn
from torchvision.models import VisionTransformer

from metrad.errors import InputError
from metrad.models.backbones import convnet, mobilenet_v2, torchvision_model
from metrad.models.base import Backbone, InputSpec
from metrad.models.embedder import Embedder
from metrad.models.heads import Softmax
from metrad.models.joined_layers import JoinedLayers
from metrad.models.pooling import pool
from metrad.models.whitening import within_class_whitening
from metrad.training.finetuning import Finetuning
from metrad.training.finetuning_methods import Teacher, blocks, parameter_groups
from metrad.training.learner import MetricLearner

IMAGES = torch.randint(0, 256, (6, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(convnet(channels=[4, 8, 8]), image_size=16)


def learner(embedder, **settings):
    torch.manual_seed(1)
    head = Softmax(embedder.out_features, 3)
    made = MetricLearner(
        embedder, head, lambda groups: torch.optim.SGD(groups, lr=0.1), finetuning=Finetuning(**settings)
    )
    made.log = lambda *args, **kwargs: None
    return made.train()


def step(made, optimizer, images=IMAGES):
    optimizer.zero_grad()
    loss = made.training_step((images, LABELS), 0)
    loss.backward()
    made.optimizer_step(0, 0, optimizer)
    return loss.item()


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("backbone", "count", "last"),
    [
        (lambda: mobilenet_v2(weights=None), 19, "features.18."),
        (lambda: mobilenet_v2(weights=None, layers=["features.3", "features.18"]), 19, "module.features.18."),
        (lambda: torchvision_model("resnet18", weights=None), 6, "layer4."),
        (lambda: torchvision_model("convnext_tiny", weights=None), 8, "features.7."),
        (lambda: torchvision_model("efficientnet_b0", weights=None), 9, "features.8."),
        (lambda: convnet(channels=[4, 8, 8]), 6, "9."),
        (lambda: convnet(channels=[2, 400]), 4, "5."),
        (lambda: torchvision_model("swin_t", weights=None), 8, ("features.7.", "norm.")),
        (lambda: torchvision_model("densenet121", weights=None), 9, ("features.denseblock4.", "features.norm5.")),
        (lambda: torchvision_model("regnet_y_400mf", weights=None), 5, "trunk_output.block4."),
    ],
)
def test_blocks_hold_each_parameter_once_and_in_order(backbone, count, last):
    module = backbone().module
    parts = blocks(module)
    assert len(parts) == count
    found = [id(parameter) for part in parts for parameter in part]
    assert found == [id(parameter) for parameter in module.parameters()]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    wanted = [id(parameter) for name, parameter in module.named_parameters() if name.startswith(last)]
    assert [names[id(parameter)] for parameter in parts[-1]] == [names[parameter] for parameter in wanted]


@pytest.mark.parametrize("layers", [None, ["encoder.ln"]])
def test_the_layers_of_a_transformer_are_blocks_behind_those_that_embed(layers):
    module = torchvision_model("vit_b_32", weights=None, args={"image_size": 64}, layers=layers).module
    names = {id(parameter): name.removeprefix("module.") for name, parameter in module.named_parameters()}
    found = [[names[id(parameter)] for parameter in part] for part in blocks(module)]
    assert len(found) == 15
    assert [part[0] for part in found[:3]] == ["class_token", "conv_proj.weight", "encoder.pos_embedding"]
    assert all({name.split(".")[2] for name in part[:12]} == {f"encoder_layer_{i}"} for i, part in enumerate(found[3:]))
    assert found[-1][12:] == ["encoder.ln.weight", "encoder.ln.bias"]


def test_a_decay_over_a_backbone_of_one_block_is_refused():
    made = learner(Embedder(Backbone(nn.Conv2d(3, 4, 3), 4, InputSpec())), layer_decay=0.5)
    with pytest.raises(InputError, match=r"finetuning\.layer_decay=0\.5 .* Conv2d; set finetuning\.layer_decay=1"):
        made.configure_optimizers()


def test_learning_rates_fall_by_the_same_factor_from_block_to_block(embedder):
    made = learner(embedder, layer_decay=0.5)
    rates = [group["lr"] for group in made.configure_optimizers().param_groups]
    assert rates == pytest.approx([0.1, *(0.1 * 0.5**depth for depth in range(6))])
    trained = [id(p) for group in made.configure_optimizers().param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in made.parameters())
    assert made.configure_optimizers().param_groups[0]["params"] == list(made.head.parameters())


def test_without_decay_there_is_one_group_of_all_parameters(embedder):
    (group,) = learner(embedder).configure_optimizers().param_groups
    assert len(group["params"]) == len(list(embedder.parameters())) + 2


def test_a_decay_of_zero_trains_the_last_block_and_the_head_alone(embedder):
    made = learner(embedder, layer_decay=0.0)
    optimizer, before, head = made.configure_optimizers(), state(embedder), state(made.head)
    assert len(parameter_groups(embedder, made.head, 0.0)) == 2
    step(made, optimizer)
    last = blocks(embedder.backbone)[-1]
    moved = {name for name, parameter in embedder.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, p in embedder.named_parameters() if any(p is other for other in last)}
    assert not torch.equal(made.head.state_dict()["weight"], head["weight"])


@pytest.mark.parametrize("learns", [True, False])
def test_batch_statistics_stay_where_batch_normalisation_is_held(embedder, learns):
    made = learner(embedder, batch_norm=learns)
    made.on_train_epoch_start()
    norms = [part for part in embedder.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(norm.running_mean.clone(), norm.weight.detach().clone()) for norm in norms]
    step(made, made.configure_optimizers())
    for norm, (mean, weight) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean) != learns
        assert not torch.equal(norm.weight, weight)
    assert all(norm.training == learns for norm in norms)
    assert made.head.training


def test_distillation_adds_the_angle_to_the_embeddings_of_the_first_weights(embedder):
    plain, held = learner(copy.deepcopy(embedder)), learner(copy.deepcopy(embedder), distillation=2.0)
    first = copy.deepcopy(embedder).eval()
    with torch.no_grad():
        for made in (plain, held):
            for parameter in made.embedder.parameters():
                parameter.mul_(1.3).add_(0.01)
        away = paired_cosine_distances(copy.deepcopy(held.embedder).train()(IMAGES).numpy(), first(IMAGES).numpy())
    losses = [made.training_step((IMAGES, LABELS), 0).item() for made in (plain, held)]
    assert away.mean() > 1e-3
    assert losses[1] - losses[0] == pytest.approx(2 * away.mean(), rel=1e-4)


def test_the_teacher_is_no_part_of_what_is_trained_or_kept(embedder):
    made = learner(embedder, distillation=1.0)
    assert state(made).keys() == state(learner(copy.deepcopy(embedder))).keys()
    before = state(made.teacher.embedder)
    step(made, made.configure_optimizers())
    assert all(torch.equal(value, before[key]) for key, value in made.teacher.embedder.state_dict().items())


def test_the_teacher_agrees_with_itself(embedder):
    embedder.eval()
    assert Teacher(embedder).loss(IMAGES, embedder(IMAGES)).item() == pytest.approx(0, abs=1e-6)


def test_the_moving_average_is_that_of_a_plain_loop(embedder):
    made = learner(embedder, ema=0.8)
    optimizer, averaged = made.configure_optimizers(), None
    for _ in range(4):
        step(made, optimizer)
        now = {key: value.double() for key, value in state(embedder).items()}
        averaged = averaged or now  # the average begins with the weights after the first step
        averaged = {key: 0.8 * averaged[key] + 0.2 * now[key] for key in now}
    for key, value in made.evaluated.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(value.numpy(), averaged[key].numpy(), rtol=1e-4, atol=1e-6)
    assert not any(torch.equal(a, b) for a, b in zip(made.evaluated.parameters(), embedder.parameters(), strict=True))


def test_the_moving_average_is_kept_and_not_trained(embedder):
    made = learner(embedder, ema=0.8)
    trained = {id(p) for group in made.configure_optimizers().param_groups for p in group["params"]}
    assert trained.isdisjoint(id(p) for p in made.average.parameters())
    assert not any(p.requires_grad for p in made.average.parameters())
    assert any(key.startswith("average.") for key in made.state_dict())
    assert learner(copy.deepcopy(embedder)).evaluated is not None


def test_without_an_average_the_embedder_itself_is_evaluated(embedder):
    assert learner(embedder).evaluated is embedder


def test_joined_layers_are_the_averages_of_each_at_length_one():
    torch.manual_seed(0)
    module = mobilenet_v2(weights=None).module.eval()
    found = {}
    for name in ("features.3", "features.13", "features.18"):
        module.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
    joined = JoinedLayers(module, ["features.3", "features.13", "features.18"]).eval()
    images = torch.rand(3, 3, 48, 48)
    with torch.no_grad():
        vectors = joined(images)
        module(images)
    expected = [nn.functional.normalize(value.mean((2, 3))) for value in found.values()]
    torch.testing.assert_close(vectors, torch.cat(expected, 1))
    cosine = vectors[0] @ vectors[1] / (vectors[0].norm() * vectors[1].norm())
    assert cosine.item() == pytest.approx(np.mean([float(part[0] @ part[1]) for part in expected]), rel=1e-5)


def test_joined_layers_have_the_weights_of_the_model_and_a_width_that_is_measured():
    plain = mobilenet_v2(weights=None, layers=["features.13", "features.18"])
    assert plain.out_features == 96 + 1280
    assert plain.module.training
    assert pool(plain.module(torch.rand(2, 3, 32, 32))).shape == (2, 1376)


def layers_by_hooks(module, layers, images):
    """Return each layer's output, copied the moment it is there."""
    found = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found.update({name: out.clone()})
        )
        for name in layers
    ]
    with torch.no_grad():
        module(images)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in layers]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["bn1", "layer3.0.bn1", "layer3.1.bn2"]),
        ("vgg11", ["16", "18"]),
        pytest.param(
            *("densenet121", ["features.denseblock4.denselayer16.norm1", "features.norm5", "classifier"]),
            marks=pytest.mark.long,
        ),
    ],
)
def test_joined_layers_are_those_before_an_activation_in_place(name, layers, training):
    module = torchvision_model(name, weights=None).module
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias)
    joined = copy.deepcopy(JoinedLayers(copy.deepcopy(module), layers)).train(training)
    images = torch.rand(2, 3, 64, 64)
    expected = [nn.functional.normalize(pool(v)) for v in layers_by_hooks(module.train(training), layers, images)]
    with torch.no_grad():
        torch.testing.assert_close(joined(images), torch.cat(expected, 1))


@pytest.mark.parametrize("size", [64, pytest.param(96, marks=pytest.mark.long)])
def test_joined_layers_average_channels_last_maps_over_the_image(size):
    layers = ["features.1", "features.3.0.attn", "features.5"]
    plain = torchvision_model("swin_t", weights=None).module.eval()
    images = torch.rand(2, 3, size, size)
    found = layers_by_hooks(plain, layers, images)
    joined = JoinedLayers(plain, layers).eval()
    with torch.no_grad():
        vectors = joined(images)
    assert vectors.shape == (2, 96 + 192 + 384)
    expected = [nn.functional.normalize(value.mean((1, 2))) for value in found]
    torch.testing.assert_close(vectors, torch.cat(expected, 1))


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v3_small", *(pytest.param(name, marks=pytest.mark.long) for name in ("swin_t", "convnext_tiny"))],
)
def test_the_width_of_joined_layers_is_the_same_for_all_image_sizes(name):
    backbone = torchvision_model(name, weights=None, layers=["features.3", "features.5"])
    widths = {Embedder(backbone, image_size=size).eval()(IMAGES).shape[1] for size in (64, 96, 128)}
    assert widths == {backbone.out_features}


def test_joined_layers_average_a_transformer_over_its_tokens():
    layers = ["conv_proj", "encoder.layers.encoder_layer_0", "encoder.ln"]
    args = {"image_size": 64, "patch_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    plain = VisionTransformer(**args).eval()
    joined, images = JoinedLayers(plain, layers, size=64).eval(), torch.rand(3, 3, 64, 64)
    first, second, third = layers_by_hooks(plain, layers, images)
    parts = [first.mean((2, 3)), second.mean(1), third.mean(1)]
    with torch.no_grad():
        torch.testing.assert_close(joined(images), torch.cat([nn.functional.normalize(part) for part in parts], 1))


def test_a_transformer_of_another_size_is_measured_and_used_at_its_own():
    backbone = torchvision_model("vit_b_32", weights=None, args={"image_size": 64}, layers=["encoder.ln"])
    assert (backbone.input_spec.size, backbone.out_features) == (64, 768)
    assert Embedder(backbone).eval()(IMAGES).shape == (6, 768)


class Odd(nn.Module):
    """Gives what joined layers cannot average."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.flat = nn.Flatten()
        self.windows = nn.Unflatten(2, (4, -1))
        self.apart = nn.Flatten(0, 1)
        self.pair = nn.MaxPool2d(2, return_indices=True)

    def forward(self, images):
        features = self.convolution(images)
        return self.flat(features), self.windows(features), self.apart(features), self.pair(features)


@pytest.mark.parametrize(
    ("layer", "came"),
    [
        ("flat", r"\(2, 36864\)"),
        ("windows", r"\(2, 4, 4, 24, 96\)"),
        ("apart", r"\(8, 96, 96\)"),
        ("pair", "no tensor"),
    ],
)
def test_a_layer_that_gives_no_features_of_an_image_is_refused(layer, came):
    odd = Odd()
    with pytest.raises(InputError, match=rf"backbone\.layers: {layer} gives {came} .*choose another layer"):
        JoinedLayers(odd, ["convolution", layer])
    assert odd.training


@pytest.mark.parametrize("layers", [["features.99"], [], ["nothing"]])
def test_a_layer_that_is_not_there_is_an_error_that_names_those_that_are(layers):
    with pytest.raises(InputError, match=r"backbone\.layers: there is no layer .*features\.18"):
        mobilenet_v2(weights=None, layers=layers)


def test_whitening_makes_classes_vary_alike_in_all_directions():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, 6)) * np.geomspace(1, 30, 6)
    labels = np.repeat([4, 9, 2], 4000)
    embeddings = generator.normal(size=(12000, 6)) @ mixing + 50 * generator.normal(size=(10, 6))[labels]
    centre, whitening = within_class_whitening(embeddings[:11000], labels[:11000])
    np.testing.assert_allclose(centre, np.mean([embeddings[:11000][labels[:11000] == c].mean(0) for c in (2, 4, 9)], 0))
    whitened = (embeddings - centre) @ whitening.T
    for label in (2, 4, 9):
        np.testing.assert_allclose(np.cov(whitened[labels == label].T), np.eye(6), atol=0.25)


def test_whitening_is_the_inverse_root_of_scikit_learn_s_estimate():
    generator = np.random.default_rng(1)
    embeddings, labels = generator.normal(size=(40, 60)), np.arange(40) % 3
    about = embeddings - np.stack([embeddings[labels == label].mean(0) for label in range(3)])[labels]
    expected = LedoitWolf(assume_centered=True).fit(about).precision_
    _, found = within_class_whitening(embeddings, labels)
    np.testing.assert_allclose(found @ found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(found, found.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("embeddings", [np.ones((6, 3)), np.repeat([[1.0, 2.0], [3.0, 1.0]], 3, axis=0)])
def test_embeddings_that_are_alike_within_classes_cannot_be_whitened(embeddings):
    with pytest.raises(ValueError, match="alike"):
        within_class_whitening(embeddings, np.repeat([0, 1], 3))


def test_embeddings_that_vary_in_one_direction_only_cannot_be_whitened():
    embeddings = np.array([[1.0, 0.0], [-1.0, 0.0]] * 3)  # all products alike, so that Ledoit-Wolf shrinks nothing
    with pytest.raises(ValueError, match="nearly alike in some direction"):
        within_class_whitening(embeddings, np.zeros(6, dtype=int))


def test_embeddings_are_whitened_in_evaluation_alone():
    torch.manual_seed(0)
    embedder = Embedder(convnet(channels=[4, 8]), image_size=16, whiten=True)
    plain = embedder.eval()(IMAGES)
    generator = np.random.default_rng(0)
    centre, whitening = generator.normal(size=8).astype(np.float32), generator.normal(size=(8, 8)).astype(np.float32)
    training = copy.deepcopy(embedder).train()(IMAGES)
    embedder.set_whitening(centre, whitening)
    torch.testing.assert_close(embedder(IMAGES), (plain - torch.tensor(centre)) @ torch.tensor(whitening).T)
    torch.testing.assert_close(embedder.train()(IMAGES), training)
    again = Embedder(convnet(channels=[4, 8]), image_size=16, whiten=True)
    again.load_state_dict(embedder.state_dict())
    assert torch.equal(again.whitening, torch.tensor(whitening))


def test_an_image_and_its_mirror_image_have_one_embedding_in_evaluation_alone(embedder):
    plain, mirrored = embedder.eval()(IMAGES), embedder(IMAGES.flip(2))
    assert not torch.allclose(plain, mirrored)
    embedder.test_time_flip = True
    torch.testing.assert_close(embedder(IMAGES), (plain + mirrored) / 2)
    torch.testing.assert_close(embedder(IMAGES.flip(2)), embedder(IMAGES))
    training = copy.deepcopy(embedder)
    training.test_time_flip = False
    assert torch.equal(embedder.train()(IMAGES), training.train()(IMAGES))


def test_a_teacher_sees_each_image_once(embedder):
    embedder.test_time_flip = True
    plain = copy.deepcopy(embedder).eval()
    plain.test_time_flip = False
    assert Teacher(embedder).loss(IMAGES, plain(IMAGES)).item() == pytest.approx(0, abs=1e-6)


def test_without_whitening_there_is_nothing_of_it_among_the_weights(embedder):
    assert not {"centre", "whitening"} & embedder.state_dict().keys()
