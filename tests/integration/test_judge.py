"""``metrad judge``: a run's own figures from its scores, those of others, differences, and what cannot be judged."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from metrad.files import read_json
from tests.helpers.commands import ROOT

LEFT_OUT = {"threshold"}  # stands in no table of scores
# How a user of anomalib might write what engine.predict returns, a row an image, from a label and a score.
PRINTED = {
    "values": (bool, lambda score: score),
    "numbers": (float, lambda score: f"{score:.17g}"),
    "tensors": (torch.tensor, lambda score: f"tensor({score})"),
    "tensors of one value": (lambda label: torch.tensor([bool(label)]), lambda score: f"tensor([{score}])"),
    "tensors on a device": (lambda label: f"tensor({label}, device='cuda:0')", lambda score: f"np.float64({score})"),
    "lists": (lambda label: [[label]], lambda score: [score]),
}


@pytest.fixture
def judged(metrad):
    """Return the function that runs the command and returns its JSON."""

    def call(*arguments):
        answer = metrad("judge", *arguments, "--json")
        assert answer.code == 0, answer.err
        return json.loads(answer.out)

    return call


def written(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def made(path, *, shift=1.0, seed=0, **columns):
    """Write a table of 60 normal and 40 anomalous images, with further columns of 100 values."""
    generator = np.random.default_rng(seed)
    truth = np.arange(100) >= 60
    scores = generator.normal(size=100) + shift * truth
    rows = [
        {
            "image": f"{i}.png",
            "label": int(truth[i]),
            "score": scores[i],
            **{key: column[i] for key, column in columns.items()},
        }
        for i in range(100)
    ]
    return written(path, rows), truth, scores


def require_same_figures(found, run):
    metrics = read_json(run.metrics)
    for name in ("auroc", "average_precision", "fpr_at_95_tpr", "partial_auroc", "intervals"):
        assert found[name] == metrics[name], name
    assert found.get("per_class") == metrics.get("per_class")
    by_rate = {entry["false_alarm_rate"]: entry for entry in found["thresholds"]}
    for expected in metrics["thresholds"]:  # judge cannot know for which rates there were too few calibration images
        entry = by_rate[expected["false_alarm_rate"]]
        assert ("by_kind" in entry) == ("per_class" in metrics)
        assert entry == {key: value for key, value in expected.items() if key not in LEFT_OUT}


def test_of_a_runs_own_scores_the_figures_are_those_of_its_metrics(finished_run, judged):
    require_same_figures(judged(finished_run.scores), finished_run)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["dataset.anomalous=[b,c]"], marks=pytest.mark.long),
        pytest.param(["dataset.anomalous=[]"], marks=pytest.mark.long),
        ["dataset.group='(?P<kind>\\w)/(?P<part>\\d+)_'", "dataset.anomalous=[b,c]"],
    ],
    ids=["two kinds", "no anomalies", "groups of two kinds"],
)
def test_so_it_is_for_other_runs(more, train, image_folders, tmp_path, small, judged):
    root = image_folders(tmp_path / "images", classes="abcdef", count=120)
    for path in sorted(root.glob("*/*.png")):
        path.rename(path.with_name(f"{int(path.stem) // 3}_{int(path.stem) % 3}.png"))
    run = train(
        *("dataset=image_folder", f"dataset.source.root={root}", "dataset.normal=[a]", "dataset.reference=[d,e,f]"),
        *("dataset.anomalous=[b]", *small, *more),
    )
    require_same_figures(judged(run.scores), run)


def test_so_it_is_where_no_test_image_has_a_small_p_value(train, judged, digits):
    run = train(*digits, "dataset.anomalous=[]", "dataset.sizes.calibration=40", "dataset.sizes.test_normal=4")
    assert read_json(run.metrics)["thresholds"]
    require_same_figures(judged(run.scores), run)


def test_groups_in_a_table_widen_the_intervals(tmp_path, judged):
    path, *_ = made(tmp_path / "a.csv")
    grouped, *_ = made(tmp_path / "b.csv", group=[i // 4 for i in range(100)])
    alone, found = judged(path), judged(grouped)
    assert found["auroc"] == alone["auroc"]
    assert found["groups"] == {"test_normal": 15, "test_anomalous": 10}
    assert found["intervals"] != alone["intervals"]


def test_anothers_scores_are_measured_as_scikit_learn_does(tmp_path, judged):
    path, truth, scores = made(tmp_path / "a.csv")
    found = judged(path)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found["thresholds"] == []


def test_the_columns_and_labels_of_others_are_told_apart(tmp_path, judged):
    truth = [False] * 5 + [True] * 5
    rows = [{"image_path": f"{i}", "gt_label": one, "pred_score": float(i)} for i, one in enumerate(truth)]
    assert judged(written(tmp_path / "a.csv", rows))["auroc"] == 1
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    assert judged(tmp_path / "a.jsonl")["auroc"] == 1
    kinds = ["fine"] * 5 + ["hole", "hole", "hole", "crack", "crack"]
    named = [{"label": kind, "score": float(i)} for i, kind in enumerate(kinds)]
    found = judged(written(tmp_path / "b.csv", named), "--normal", "fine")
    assert list(found["per_class"]) == ["hole", "crack"]


@pytest.mark.parametrize("printed", PRINTED)
def test_predictions_of_anomalib_are_read_however_they_were_printed(printed, tmp_path, judged):
    label, score = PRINTED[printed]
    scores = np.random.default_rng(0).uniform(size=10).tolist()
    truth = [int(i % 3 == 0) for i in range(10)]
    rows = [
        {"image_path": f"/data/{i}.png", "gt_label": label(truth[i]), "pred_score": score(scores[i]), "pred_label": "?"}
        for i in range(10)
    ]
    assert judged(written(tmp_path / "a.csv", rows))["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-15)


class Engine:
    """What anomalib's engine returns: batches of items with tensors, as version 2.7 did for a test split of MVTec."""

    def predict(self, model, datamodule):
        for path, label, score in datamodule:
            yield [SimpleNamespace(image_path=path, gt_label=torch.tensor(label), pred_score=torch.tensor([score]))]


def test_the_lines_of_the_docs_write_a_table_of_anomalibs_predictions(tmp_path, judged):
    first, truth, scores = made(tmp_path / "a.csv", image=[f"screw/test/{i}.png" for i in range(100)])
    paths = [f"{tmp_path}/mvtec/screw/test/{i}.png" for i in range(100)]
    data = list(zip(paths, truth.tolist(), scores.astype(np.float32).tolist(), strict=True))
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/judging.md").read_text(), re.DOTALL)
    exec(lines, {"csv": csv, "engine": Engine(), "model": None, "data": data})
    found, other = judged(first, "anomalib.csv")
    assert other["auroc"] == found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert other["first_less_this"]["auroc"]["difference"] == 0


@pytest.mark.parametrize(
    ("names", "others"),
    [
        ("screw/test/{}", "/data/mvtec/screw/test/{}"),
        ("/data/mvtec/screw/test/{}", "{}"),
        ("./datasets/test/{}", "test/{}"),
        ("C:\\data\\test\\{}", "test/{}"),
    ],
)
def test_images_are_paired_by_their_paths_below_the_dataset(names, others, tmp_path, judged):
    folders = ["good", "cut"]
    for file, pattern in (("a.csv", names), ("b.csv", others)):
        images = [pattern.format(f"{folders[i % 2]}/{i // 2}.png") for i in range(100)]
        made(tmp_path / file, seed=len(file), image=images)
    found = judged(tmp_path / "a.csv", tmp_path / "b.csv")[1]["first_less_this"]
    assert found["auroc"]["difference"] == 0


def test_images_of_two_folders_that_only_bear_the_same_names_are_not_paired(tmp_path, refused):
    for folder in ("left", "right"):
        made(tmp_path / f"{folder}.csv", image=[f"{folder}/{i}.png" for i in range(100)])
    refused("judge", tmp_path / "left.csv", tmp_path / "right.csv", words=("right.csv", "lacks the image 'left/0.png'"))


def test_calibration_rows_set_thresholds_and_kinds_are_detected_each(tmp_path, judged, metrad):
    generator = np.random.default_rng(1)
    rows = [{"label": "calibration", "kind": "", "score": x} for x in generator.normal(size=99)]
    rows += [{"label": "good", "kind": "", "score": x} for x in generator.normal(size=50)]
    rows += [{"label": "bad", "kind": "hole", "score": x + 9} for x in generator.normal(size=20)]
    rows += [{"label": "bad", "kind": "dust", "score": x} for x in generator.normal(size=20)]
    path = written(tmp_path / "a.csv", rows)
    one, five = judged(path)["thresholds"]
    threshold = np.sort([row["score"] for row in rows[:99]])
    alarms = np.array([row["score"] for row in rows[99:149]]) > threshold[94]
    assert five["test_false_alarm_rate"] == alarms.mean()
    assert five["by_kind"]["hole"] == {"images": 20, "rate": 1.0, "interval": five["by_kind"]["hole"]["interval"]}
    assert one["false_alarm_rate"] == 0.01
    text = metrad("judge", path).out
    assert "dust (20 images)" in text
    assert text.count("the worst kind") == 2
    assert "at 5 % promised: false alarms" in text


def test_two_detectors_on_the_same_images_are_compared_in_pairs(tmp_path, judged, metrad):
    first, truth, scores = made(tmp_path / "a.csv", shift=2)
    second, _, others = made(tmp_path / "b.csv", shift=1)
    _, found = judged(first, second)
    auroc = found["first_less_this"]["auroc"]
    assert auroc["difference"] == pytest.approx(roc_auc_score(truth, scores) - roc_auc_score(truth, others))
    V10, V01 = [], []  # placements by counting, as DeLong's paper defines them
    for values in (scores, others):
        wins = (values[truth][:, None] > values[~truth][None]) + 0.5 * (values[truth][:, None] == values[~truth][None])
        V10.append(wins.mean(1))
        V01.append(wins.mean(0))
    variance = np.subtract(*V10).var(ddof=1) / 40 + np.subtract(*V01).var(ddof=1) / 60
    reach = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert auroc["delong"] == pytest.approx([auroc["difference"] - reach, auroc["difference"] + reach])
    assert auroc["p_value"] == pytest.approx(2 * stats.norm.sf(auroc["difference"] / np.sqrt(variance)))
    low, high = auroc["interval"]
    assert low == pytest.approx(auroc["delong"][0], abs=0.02)
    assert high == pytest.approx(auroc["delong"][1], abs=0.02)
    assert "on the same images" in metrad("judge", first, second).out


def test_the_order_of_the_rows_does_not_matter_and_a_detector_does_not_differ_from_itself(tmp_path, judged):
    path, *_ = made(tmp_path / "a.csv")
    lines = path.read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    found = judged(path, tmp_path / "b.csv")[1]["first_less_this"]
    assert found["auroc"] == {"difference": 0, "interval": [0, 0], "delong": [0, 0], "p_value": 1}


GOOD = "image,label,score\na,0,1\nb,1,2\nc,0,0\nd,1,3\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["no rows"]),
        ("image,label\na,0\n", ["no column for the score", "pred_score"]),
        ("image,score\na,0\n", ["no column for the label", "there are image, score"]),
        ("label;score\n0;1\n", ["commas"]),
        ("label,score\n0,nan\n", ["line 2", "score must be a finite number", "'nan'"]),
        ("label,score\n0,1\n1,inf\n", ["line 3", "'inf'"]),
        ("label,score\n0,x\n", ["line 2", "'x'"]),
        ("label,score\nscratch,1\n", ["line 2", "'scratch'", "--normal good"]),
        ("label,score\n1,1\n", ["no normal test image"]),
        ("label,score,p\n0,1,2\n", ["line 2", "p must be a number from 0 to 1"]),
        ("label,score,group\n0,1,\n", ["line 2", "group is empty"]),
        ("label,role,score\n0,calibration,1\n", ["label and role", "keep one"]),
        ("label,score\n0,1_0\n", ["'1_0'"]),
        ('label,score\n0,"[1, 2]"\n', ["score must be a finite number", "'[1, 2]'"]),
        ('label,score\n0,"tensor([1, 2])"\n', ["score must be a finite number", "'tensor([1, 2])'"]),
        (",label,score\n0,0,1\n", ["to_csv(FILE, index=False)"]),
        ("label,score\n", ["no rows", "names the columns"]),
        ("image,label,score\na,0,1\na,1,2\n", ["line 3", "'a' is there twice"]),
    ],
)
def test_a_table_that_cannot_be_judged_is_told_in_a_line(content, words, refused, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    refused("judge", "t.csv", words=["t.csv", *words])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.replace("a,", "e,"), ["lacks the image"]),
        (GOOD.replace("a,0", "a,1"), ["do not agree whether 'a' is anomalous"]),
        (GOOD.replace("image", "name"), ["names no images"]),
    ],
)
def test_tables_of_other_images_are_not_compared(content, words, refused, tmp_path):
    (tmp_path / "t.csv").write_text(GOOD)
    (tmp_path / "u.csv").write_text(content)
    refused("judge", "t.csv", "u.csv", words=words)


def test_other_mistakes_are_told_too(refused, tmp_path):
    (tmp_path / "t.csv").write_text(GOOD)
    refused("judge", "t.csv", "--normal", "Nope", words=["no normal test image", "labels such as 0, 1"])
    refused("judge", "nowhere.csv", words=["nowhere.csv"])
    refused("judge", ".", words=["table"])
    refused("judge", "t.csv", "--rate", "2", words=["--rate"])
    (tmp_path / "c.csv").write_text(GOOD + "e,calibration,1\n")
    refused("judge", "c.csv", "--rate", "0.05", words=["19 calibration images", "got 1"])


def test_rates_below_all_p_values_have_no_alarms_and_a_rate_without_a_promise_is_refused(tmp_path, judged, refused):
    path, *_ = made(tmp_path / "a.csv", p_value=[0.5] * 100)
    for entry in judged(path)["thresholds"]:
        assert (entry["test_false_alarm_rate"], entry["test_detection_rate"]) == (0, 0)
    (entry,) = judged(path, "--rate", "0.5")["thresholds"]
    assert (entry["test_false_alarm_rate"], entry["test_detection_rate"]) == (1, 1)
    bare, *_ = made(tmp_path / "b.csv")
    refused("judge", bare, "--rate", "0.01", words=("leave out --rate",))


def test_a_difference_goes_by_the_groups_of_either_table(tmp_path, judged, refused):
    groups = [i // 4 for i in range(100)]
    plain, grouped = made(tmp_path / "a.csv")[0], made(tmp_path / "b.csv", seed=1, group=groups)[0]
    both = made(tmp_path / "c.csv", group=[f"part {group}" for group in groups])[0]
    by_group = judged(plain, grouped)[1]["first_less_this"]
    assert by_group["auroc"]["difference"] == judged(both, grouped)[1]["first_less_this"]["auroc"]["difference"]
    assert by_group["auroc"]["delong"] == pytest.approx(judged(both, grouped)[1]["first_less_this"]["auroc"]["delong"])
    other = made(tmp_path / "d.csv", group=[i // 5 for i in range(100)])[0]
    refused("judge", other, grouped, words=("other groups",))
