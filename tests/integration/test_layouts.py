"""Runs on public layouts, a manifest and joined sources, made up and small."""

import pytest

from metrad.app.evaluate import evaluate_run
from metrad.files import read_json
from metrad.reports.comparison.blocks import blocks
from metrad.reports.comparison.input import read_sweep
from tests.helpers.layouts import mvtec, put_images, visa

FROZEN = [
    *("experiment=frozen", "backbone=convnet", "backbone.channels=[8,16]", "image_size=16", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "evaluation.resamples=100"),
]


def test_a_category_of_mvtec_gives_metrics_of_each_kind_of_defect(train, tmp_path):
    mvtec(tmp_path / "mvtec", {"screw": ["scratch_head", "thread_side"], "bottle": ["contamination"]})
    run = train("dataset=mvtec", "dataset.category=screw", f"paths.data={tmp_path}", *FROZEN)
    metrics = read_json(run.metrics)
    assert metrics["per_class"].keys() == {"scratch_head", "thread_side"}
    split = run.saved_split()
    assert split["classes"] == {"reference": [], "normal": ["good"], "anomalous": ["scratch_head", "thread_side"]}
    assert {name.rsplit("/", 1)[0] for name in split["images"]["test_normal"]} == {"screw/test/good"}
    for role in ("normal", "calibration"):
        assert {name.rsplit("/", 1)[0] for name in split["images"][role]} == {"screw/train/good"}


def test_a_category_of_visa_and_a_manifest_of_the_same_images_give_the_same_scores(train, tmp_path):
    root = visa(tmp_path / "visa", ["candle"])
    first = train("dataset=visa", "dataset.category=candle", f"paths.data={tmp_path}", *FROZEN, name="visa_run")
    table = root / "mine.csv"
    table.write_text((root / "split_csv/1cls.csv").read_text())
    columns = "dataset.source.columns={path: image, class: label, part: split}"
    manifest = ["dataset=manifest", f"dataset.source.path={table}", columns, "dataset.reference=[]"]
    second = train(*manifest, "dataset.normal=[normal]", "dataset.anomalous=[anomaly]", *FROZEN, name="manifest_run")
    assert first.scores.read_text() == second.scores.read_text()


def test_anomalies_of_another_source_are_found_in_a_file_of_both_and_the_run_is_evaluated_again(train, tmp_path):
    put_images(tmp_path / "line", [f"good/{i:02d}.png" for i in range(40)])
    put_images(tmp_path / "other", [f"{kind}/{i}.png" for kind in ("cut", "dent") for i in range(4)], seed=1)
    sources = {
        name: f"{{_target_: metrad.data.sources.ImageFolder, root: {tmp_path / name}}}" for name in ("line", "other")
    }
    run = train(
        "dataset=ood",
        "~dataset.source.sources.fmnist",
        "~dataset.source.sources.mnist",
        *(f"+dataset.source.sources.{name}={source}" for name, source in sources.items()),
        "dataset.normal=[line/good]",
        "dataset.anomalous=[other/*]",
        "dataset.reference=[]",
        "dataset.sizes={reference: null, normal: null, calibration: 5, test_normal: null, test_anomalous: null}",
        *FROZEN,
    )
    assert read_json(run.metrics)["per_class"].keys() == {"other/cut", "other/dent"}
    folder, _ = evaluate_run(run.path, ["scorer=centre"], evidence=True)
    assert (folder / "neighbours.png").is_file()


@pytest.mark.parametrize(("column", "chosen"), [("serial", ["dataset.group=serial"]), ("group", [])])
def test_a_column_of_a_manifest_keeps_a_part_on_one_side(train, tmp_path, column, chosen):
    names = [f"good/{i:02d}.png" for i in range(40)]
    put_images(tmp_path / "m", [*names, *(f"bad/{i}.png" for i in range(4))])
    rows = [f"{name},good,part {i // 4}" for i, name in enumerate(names)] + [f"bad/{i}.png,bad," for i in range(4)]
    (tmp_path / "m/parts.csv").write_text("\n".join([f"path,class,{column}", *rows]))
    chosen = [*chosen, "dataset.normal=[good]", "dataset.anomalous=[bad]", "dataset.reference=[]"]
    run = train("dataset=manifest", f"dataset.source.path={tmp_path}/m/parts.csv", *chosen, *FROZEN)
    split = run.saved_split()
    trained = {names.index(name) // 4 for role in ("normal", "calibration") for name in split["images"][role]}
    tested = {names.index(name) // 4 for name in split["images"]["test_normal"]}
    assert min(len(trained), len(tested)) > 0
    assert not trained & tested


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["dataset=mvtec", "dataset.category=scrw"], ["dataset.category=scrw", "did you mean dataset.category=screw?"]),
        (["dataset=mvtec"], ["dataset.category must be set, as in dataset.category=bottle; there are bottle, screw"]),
        (["dataset=mvtec", "dataset.category=screw", "experiment=null"], ["experiment=frozen"]),
        (
            ["dataset=image_folder", "dataset.source.root=mvtec", "dataset.normal=[good]", "dataset.anomalous=[crack]"],
            ["dataset=mvtec dataset.source.root=mvtec dataset.category=bottle"],
        ),
        (["dataset=visa", "dataset.category=candle"], ["metrad does not download VisA"]),
        (["dataset=digits", "dataset.category=screw"], ["dataset.category=screw: this dataset has no categories"]),
        (
            ["dataset=manifest", "dataset.source.path=nowhere.csv", "dataset.normal=[a]", "dataset.anomalous=[b]"],
            ["dataset.source.path: no file"],
        ),
        (
            [
                "dataset=ood",
                "dataset.source.sources.mnist.root=nowhere",
                "dataset.source.sources.mnist.download=false",
                "dataset.source.sources.fmnist._target_=metrad.data.sources.Digits",
                "~dataset.source.sources.fmnist.root",
                "~dataset.source.sources.fmnist.download",
            ],
            ["dataset.source.sources.mnist cannot be read"],
        ),
        (["dataset=ood", "dataset.source.sources.mnist.rot=x"], ["dataset.source.sources.mnist.rot"]),
    ],
)
def test_mistakes_with_layouts_are_answered_in_one_line_with_the_way_out(turned_down, tmp_path, settings, words):
    mvtec(tmp_path / "mvtec", {"screw": ["crack"], "bottle": ["crack"]})
    experiment = [] if "experiment=null" in settings else FROZEN[:1]
    settings = [item for item in settings if item != "experiment=null"]
    turned_down(*settings, f"paths.data={tmp_path}", *experiment, *FROZEN[1:], words=tuple(words))


@pytest.mark.long
def test_a_sweep_over_categories_counts_each_as_images_of_its_own(metrad, tmp_path):
    mvtec(tmp_path / "mvtec", {"screw": ["crack"], "bottle": ["crack"]})
    swept = ["dataset=mvtec", "dataset.category=screw,bottle", "scorer=knn,centre", "sweep=s"]
    ended = metrad("train", "-m", *swept, f"paths.data={tmp_path}", *FROZEN)
    assert ended.code == 0, ended.err
    table = read_sweep(tmp_path / "multirun/s", "scorer")
    assert table.conditions == ["dataset", "dataset.category"]
    places = list(table.runs[table.conditions].itertuples(index=False, name=None))
    assert len(set(blocks(places, table.origins).values())) == 2


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("auto", ["takes 19 calibration images and not 16; 29 good images beside those tested on, 5 more than there"]),
        (
            "0.1",
            [
                "takes 19 calibration images and not 2; set dataset.sizes.calibration=19",
                "takes 99 calibration images and not 2; 149 good images beside those tested on, 125 more than there",
            ],
        ),
    ],
)
def test_a_category_with_too_few_good_images_says_how_many_more_a_threshold_takes(train, tmp_path, size, says):
    mvtec(tmp_path / "mvtec", {"screw": ["crack"]})
    settings = ["dataset.category=screw", f"paths.data={tmp_path}", f"dataset.sizes.calibration={size}"]
    run = train("dataset=mvtec", *settings, "dataset.test_share=null", *FROZEN)
    assert [words for words in says if words not in run.log.read_text()] == []
