"""The table and the curves that a run leaves: any evaluator's metrics, any number of losses."""

import numpy as np
from PIL import Image

from convnext_backbones.runs import report
from convnext_backbones.runs.host import Entry


def test_any_metric_gets_a_row_and_its_own_name_where_none_is_known():
    record = {"coco/bbox_mAP": 0.5, "pascal_voc/AP50": np.float32(0.25), "AP-traffic_light": 0.1,
              "time": 1.0, "step": 3, "lr": 0.1, "note": "x"}  # fmt: skip
    assert report.metrics_of(record) == {
        "box AP": 0.5, "pascal voc AP50": 0.25, "AP-traffic_light": 0.1,
    }  # fmt: skip


def test_classes_get_a_table_before_the_metrics(capsys):
    report.print_metrics(
        {"mIoU (%)": 20.0, "IoU-road (%)": 30.0, "IoU-sky (%)": float("nan")}, "last"
    )
    printed = capsys.readouterr().out
    assert printed.index("road") < printed.index("mIoU (%)")
    assert "30.00" in printed
    assert "nan" in printed


def test_a_few_losses_are_drawn_each_and_many_by_their_kind():
    few = [{"at": 1, "loss": 3.0, "loss_cls": 1.0, "loss_box": 2.0}]
    assert list(report.losses_of(few)) == ["loss", "loss_box", "loss_cls"]
    layers = {f"decode.d{k}.loss_{kind}": 1.0 for k in range(9) for kind in ("cls", "mask", "dice")}
    lines = report.losses_of([{"at": 1, "loss": 27.0, **layers}])
    assert lines == {
        "loss": [(1, 27.0)], "loss_cls, sum of 9": [(1, 9.0)], "loss_dice, sum of 9": [(1, 9.0)],
        "loss_mask, sum of 9": [(1, 9.0)],
    }  # fmt: skip
    assert "loss_ce, sum of 10" in report.losses_of(
        [{"at": 1} | {f"loss_ce_{k}": 1.0 for k in range(10)}]
    )
    kinds = report.losses_of([{"at": 1} | {f"loss_{chr(97 + k)}": float(k) for k in range(12)}])
    assert len(kinds) == report.LINES
    assert kinds["5 smaller losses, their sum"] == [(1, 10.0)]


def test_a_later_session_counts_from_where_it_goes_back_to():
    def session(*steps: int, loss: float) -> list[Entry]:
        return [Entry(False, at, {"loss": loss}) for at in steps] + [
            Entry(True, steps[-1], {"mIoU": loss})
        ]

    first, resumed = session(10, 20, 30, loss=1.0), session(20, 30, 40, loss=2.0)
    training, validation = report.scalars([*first, *resumed])
    assert [(r["at"], r["loss"]) for r in training] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]
    assert [(r["at"], r["mIoU"]) for r in validation] == [(40, 2.0)]
    anew = session(10, 20, loss=3.0)  # in the same folder
    training, validation = report.scalars([*first, *resumed, *anew])
    assert [(r["at"], r["loss"]) for r in training] == [(10, 3.0), (20, 3.0)]
    assert [(r["at"], r["mIoU"]) for r in validation] == [(20, 3.0)]


def test_the_curves_are_drawn_with_a_loss_that_is_no_number(tmp_path):
    training = [
        {"at": k, "loss": value} for k, value in enumerate((2.0, float("nan"), float("inf"), 1.0))
    ]
    validation = [{"at": 1, "accuracy/top1": 0.5}]
    assert report.save_curves(training, validation, tmp_path / "curves.png")
    assert np.asarray(Image.open(tmp_path / "curves.png").convert("L")).std() > 5


def test_what_stands_in_the_table_of_classes_is_no_row_of_the_metrics(capsys):
    record = {"coco/bbox_mAP": 0.3, "coco/dog_precision": 0.4, "AP-dog": 0.4, "precision": 0.5}
    assert report.metrics_of(record) == {"box AP": 0.3, "AP-dog": 0.4, "precision": 0.5}
    assert "coco dog precision" in report.metrics_of({"coco/dog_precision": 0.4})
