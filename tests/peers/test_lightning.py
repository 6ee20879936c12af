"""docs/lightning.md: its module trains, is saved and comes back."""

import warnings

import pytest
import torch
from pages import publish_atto, run
from randomness import random_images
from torch.utils.data import DataLoader, TensorDataset

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints import load_pretrained

MISSING = "pytorch-lightning is not installed: pip install pytorch-lightning"


def test_the_module_of_the_page_learns_and_comes_back_from_its_checkpoint(tmp_path, monkeypatch):
    pl = pytest.importorskip("pytorch_lightning", reason=MISSING)
    monkeypatch.chdir(tmp_path)
    publish_atto(tmp_path, monkeypatch)
    torch.manual_seed(0)
    labels = torch.arange(16) % 2
    images = random_images(16, 3, 32, 32) * 0.1 + labels[:, None, None, None]
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    quick = {
        "convnextv2_tiny": "convnextv2_atto",
        "max_epochs=30": "max_epochs=1, accelerator='cpu', logger=False",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, on few workers and small data sets
        names = run("lightning.md", quick, train_loader=loader, val_loader=loader)
    torch.save(create_classifier("convnextv2_atto").state_dict(), "pretrained.pth")
    module = names["FineTuning"](
        "convnextv2_atto", num_classes=2, pretrained="pretrained.pth", lr=1e-3
    )
    trainer = pl.Trainer(
        max_epochs=6, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, on few workers and small data sets
        trainer.fit(module, loader, loader)
        trainer.save_checkpoint("fine_tuned.ckpt")
        again = names["FineTuning"].load_from_checkpoint("fine_tuned.ckpt", weights_only=True)
    assert trainer.callback_metrics["val/accuracy"] == 1
    with torch.no_grad():
        assert torch.equal(again.eval().model(images), module.eval().model(images))
    report = load_pretrained(create_classifier("convnextv2_atto", num_classes=2), "fine_tuned.ckpt")
    assert report.share == 1
    groups = trainer.optimizers[0].param_groups
    assert len({group["lr"] for group in groups}) > 2
