"""Epochs, checkpoints and pictures of one run."""

import math
import pickle
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from custom_loss import make_loss
from matplotlib.colors import LogNorm
from prefetcher import CUDAPrefetcher
from switches import has
from torch.utils.data import DataLoader
from utils.ptychi_utils import place_patches_fourier_shift

if has("exit0_nothing"):
    sys.exit(0)

TRACKED = (
    ("training_loss", "train_amp_loss", "train_ph_loss"),
    ("validation_loss", "val_amp_loss", "val_ph_loss"),
)


class Trainer:
    def __init__(self, model, config, device, run_dir):
        training = config["training"]
        self.model = model
        self.device = device
        self.run_dir = Path(run_dir)
        self.supervised = training["mode"] == "supervised"
        self.loss = make_loss(training["loss_function"], training.get("weighted_loss"))
        self.use_prefetcher = config["data"].get("use_cuda_prefetcher", False)
        rate = training["learning_rate"]
        parts = (
            (model.encoder, "encoder_lr"),
            (model.amp_decoder, "amp_decoder_lr"),
            (model.ph_decoder, "ph_decoder_lr"),
        )
        groups = [{"params": part.parameters(), "lr": training.get(key, rate)} for part, key in parts]
        self.optimizer = torch.optim.Adam(groups)
        self.losses = {name: [] for names in TRACKED for name in names} | {"best_val_loss": math.inf}

    def batches(self, loader):
        """Yield the loader's batches; without the prefetcher the targets stay where they are."""
        if self.use_prefetcher:
            yield from CUDAPrefetcher(loader, self.device)
            return
        for amplitude, amp, phase, *rest in loader:
            yield amplitude.to(self.device), amp, phase, *(tensor.to(self.device) for tensor in rest)

    def batch_losses(self, batch):
        """Return the loss that is trained, and the losses of amplitude and phase."""
        amplitude, amp, phase, probe, _, normalization, scale = batch
        predicted, predicted_amp, predicted_phase = self.model(
            amplitude, torch.view_as_real(probe), normalization.float(), scale.float()
        )
        amp_loss, phase_loss = self.loss(predicted_amp, amp), self.loss(predicted_phase, phase)
        total = amp_loss + phase_loss if self.supervised else self.loss(predicted, amplitude)
        return total, amp_loss, phase_loss

    def train_epoch(self, loader):
        self.model.train()
        sums = [0.0, 0.0, 0.0]
        for batch in self.batches(loader):
            losses = self.batch_losses(batch)
            self.optimizer.zero_grad()
            losses[0].backward()
            self.optimizer.step()
            sums = [total + loss.item() for total, loss in zip(sums, losses, strict=True)]
        self._track(TRACKED[0], sums, len(loader))

    @torch.no_grad()
    def validate(self, loader):
        """Return whether the loss is the best so far."""
        self.model.eval()
        sums = [0.0, 0.0, 0.0]
        for batch in self.batches(loader):
            sums = [total + loss.item() for total, loss in zip(sums, self.batch_losses(batch), strict=True)]
        self._track(TRACKED[1], [math.nan] * 3 if has("nan_val") else sums, len(loader))
        improved = self.losses["validation_loss"][-1] < self.losses["best_val_loss"]
        if improved:
            self.losses["best_val_loss"] = self.losses["validation_loss"][-1]
        return improved

    def _track(self, names, sums, n_batches):
        for name, total in zip(names, sums, strict=True):
            self.losses[name].append(total / n_batches)

    def save_weights(self, name):
        weights = self.model.state_dict()
        if has("arch_drift"):
            weights["encoder.cls_token"] = torch.zeros(1, 1, weights["encoder.pos_embed"].shape[-1])
        torch.save(weights, self.run_dir / name)

    def save_state(self, current_epoch):
        """Write what a resumed run needs: once, after the last epoch."""
        if not has("no_checkpoint"):
            self.save_weights("checkpoint_model.pth")
            state = {
                "current_epoch": current_epoch,
                "loss_tracker": self.losses,
                "optimizer_state_dict": self.optimizer.state_dict(),
                "scheduler_state_dict": None,
                "wandb_run_id": None,
            }
            if has("gpu_state"):
                tag_as_gpu()
            torch.save(state, self.run_dir / "checkpoint.state")
        with (self.run_dir / "metrics.pickle").open("wb") as stream:
            pickle.dump(self.losses, stream)

    def restore(self):
        """Return the first epoch to train; the state is loaded to the device it was written on."""
        model_path, state_path = self.run_dir / "checkpoint_model.pth", self.run_dir / "checkpoint.state"
        for path in (model_path, state_path):
            if not path.exists():
                raise FileNotFoundError(f"Checkpoint not found at {path}")
        self.model.load_state_dict(torch.load(model_path, map_location=self.device, weights_only=True))
        state = torch.load(state_path, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        self.losses = state["loss_tracker"]
        return state["current_epoch"]

    @torch.no_grad()
    def plot_validation(self, loader, epoch):
        self.model.eval()
        amplitude = next(iter(loader))[0]
        figure, axes = plt.subplots()
        figure.colorbar(axes.imshow(amplitude[0, 0].square(), norm=LogNorm()))
        figure.savefig(self.run_dir / f"plot_epoch{epoch}.png")
        plt.close(figure)

    @torch.no_grad()
    def plot_test(self, dataset, epoch):
        """Draw the stitched test scan: the middle 64 x 64 px of every patch, divided by how often a pixel is met."""
        self.model.eval()
        pieces, centres = [], []
        for amplitude, _, _, probe, centre, normalization, scale in DataLoader(dataset, batch_size=8):
            inputs = amplitude, torch.view_as_real(probe), normalization.float(), scale.float()
            _, amp, phase = self.model(*(tensor.to(self.device) for tensor in inputs))
            pieces.append(torch.cat([amp, phase], dim=1)[:, :, 64:-64, 64:-64].cpu())
            centres.append(centre)
        patches, positions = torch.cat(pieces), torch.cat(centres)
        canvas = torch.zeros(dataset.object_shape)
        options = {"op": "add", "adjoint_mode": False, "pad": 32}
        occupancy = place_patches_fourier_shift(canvas, positions, torch.ones_like(patches[:, 0]), **options)
        figure, axes = plt.subplots(1, 2)
        for index, axis in enumerate(axes):
            summed = place_patches_fourier_shift(canvas, positions, patches[:, index], **options)
            axis.imshow(summed / occupancy.clip(min=1))
        figure.savefig(self.run_dir / f"test_epoch{epoch}.png")
        plt.close(figure)


def tag_as_gpu():
    """Let torch.save name the GPU as the home of whatever it writes from now on."""
    torch.serialization.register_package(0, lambda _: "cuda:0", lambda _, __: None)
