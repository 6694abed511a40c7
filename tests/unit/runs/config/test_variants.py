"""Choices that are made from another choice of their group."""

from metrad.runs.config.catalogue import choice_of, contents


def test_a_variant_has_the_settings_of_the_other_choice_and_its_own():
    knn, variant = contents("scorer")["knn"], contents("scorer")["knn_l2"]
    assert variant == {**knn, "metric": "l2"}


def test_settings_are_named_by_the_variant_only_if_all_are_its_own():
    knn, variant = contents("scorer")["knn"], contents("scorer")["knn_l2"]
    assert choice_of("scorer", knn) == "knn"
    assert choice_of("scorer", variant) == "knn_l2"
    assert choice_of("scorer", {**variant, "k": 5}) == choice_of("scorer", {**knn, "k": 5}) == "knn"
    middle = contents("backbone")["mobilenet_v2_middle"]
    assert choice_of("backbone", middle) == "mobilenet_v2_middle"
    assert choice_of("backbone", {**middle, "weights": "file.pth"}) == "mobilenet_v2"
