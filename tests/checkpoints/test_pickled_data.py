"""Annotations and proposals in pickles are read without being executed, as long as they may be."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from convnext_backbones.checkpoints import read_pickled
from convnext_backbones.errors import UserError

ANNOTATIONS = [
    {
        "filename": "a.jpg",
        "size": (3, 4),
        "ann": {"bboxes": np.ones((2, 4), np.float32), "labels": np.array([1, 2])},
        "score": np.float32(0.5),
        "tags": {"night"},
        "mask": torch.ones(3, dtype=torch.bool),
    }
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_as_it_was_written(protocol):
    (read,) = read_pickled(pickle.dumps(ANNOTATIONS, protocol), "a.pkl")
    (expected,) = ANNOTATIONS
    for name in ("filename", "size", "score", "tags"):
        assert read[name] == expected[name]
    for name, array in expected["ann"].items():
        assert isinstance(read["ann"][name], np.ndarray)
        assert read["ann"][name].dtype == array.dtype
        np.testing.assert_array_equal(read["ann"][name], array)
    read["ann"]["bboxes"] += 1  # its memory is its own
    assert torch.equal(read["mask"], expected["mask"])


def test_a_large_data_set_is_read():
    """Of more names and steps than a checkpoint may have."""
    many = {f"{k}.jpg": [{"bbox": [1.0, 2.0, 3.0, k], "label": k % 9}] * 3 for k in range(60_000)}
    many["tensor"] = torch.ones(2)  # after a million steps
    read = read_pickled(pickle.dumps(many), "a.pkl")
    assert torch.equal(read.pop("tensor"), many.pop("tensor"))
    assert read == many


def test_an_object_is_refused_with_what_to_write():
    sentence = (
        r"^a\.pkl: holds a Python object \(pathlib\S*\) .* write plain dictionaries, .* or JSON"
    )
    with pytest.raises(UserError, match=sentence):
        read_pickled(pickle.dumps([Path("a")]), "a.pkl")
    with pytest.raises(UserError, match=r"^a\.pkl: .*; write plain"):
        read_pickled(b"", "a.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_proposals_as_mmdetection_dumps_them_are_dictionaries(protocol):
    structures = pytest.importorskip("mmengine.structures")
    dumped = structures.InstanceData(
        metainfo=dict(size=3), bboxes=np.ones((2, 4), np.float32), scores=np.array([0.5, 0.1])
    )
    read = read_pickled(pickle.dumps({"a/b.jpg": dumped}, protocol), "a.pkl")["a/b.jpg"]
    assert set(read) == {"size", "bboxes", "scores"}
    np.testing.assert_array_equal(read["bboxes"], dumped.bboxes)


def test_mmengine_reads_annotations_of_a_data_set(tmp_path):
    pytest.importorskip("mmengine")
    import mmengine
    from mmengine.dataset import BaseDataset

    import convnext_backbones.adapters.openmmlab  # noqa: F401  (applies the patches)

    content = {"metainfo": {"classes": ["cell"]}, "data_list": ANNOTATIONS}
    mmengine.dump(content, str(tmp_path / "a.pkl"))
    dataset = BaseDataset(str(tmp_path / "a.pkl"), data_prefix=dict(filename=""))
    assert dataset.metainfo["classes"] == ["cell"]
    assert isinstance(dataset.get_data_info(0)["ann"]["labels"], np.ndarray)


def test_detectron2_reads_proposals(tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.data.build import load_proposals_into_dataset

    import convnext_backbones.adapters.detectron2  # noqa: F401  (applies the patches)

    boxes, logits = [np.array([[0, 0, 2.0, 2], [1, 1, 3, 3]])], [np.array([0.1, 0.9])]
    content = {"ids": [7], "boxes": boxes, "scores": logits}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    (record,) = load_proposals_into_dataset([{"image_id": 7}], str(tmp_path / "a.pkl"))
    np.testing.assert_array_equal(record["proposal_objectness_logits"], [0.9, 0.1])
    np.testing.assert_array_equal(record["proposal_boxes"], boxes[0][::-1])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match=r"a\.pkl: holds a list, and proposals are a dictionary"):
        load_proposals_into_dataset([], str(tmp_path / "a.pkl"))
