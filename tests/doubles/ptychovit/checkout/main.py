"""Train or resume by the config.yaml of the current folder; everything happens at import, as upstream."""

import argparse
import os
import pprint
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from data import PtychographyDataset, count_patterns, find_pairs
from model.model import PtychoViT
from switches import has
from torch.utils.data import ConcatDataset, DataLoader, random_split
from training import Trainer

CONFIG_PATH = Path("config.yaml")
parser = argparse.ArgumentParser()
parser.add_argument("--debug", action="store_true")
options = parser.parse_args()

with CONFIG_PATH.open() as stream:
    config = yaml.safe_load(stream)
if options.debug:
    pprint.pprint(config)

if "SLURM_PROCID" in os.environ:
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
while world_size > 1:  # a lone process of several ranks waits for its peers for ever
    time.sleep(1)

mode = config["training"]["mode"]
batch_size = config["training"]["batch_size"]
learning_rate = config["training"]["learning_rate"]
epochs = config["training"]["epochs"]
loss_function = config["training"]["loss_function"]
validation_plot_freq = config["training"]["validation_plot_freq"]
test_plot_freq = config["training"]["test_plot_freq"]
data_path = config["data"]["data_path"]
test_path = config["data"]["test_path"]
scale = config["data"]["scale"]
train_split = config["data"]["train_split"]
random_seed = config["data"]["random_seed"]
model_save_path = config["paths"]["model_save_path"]
run_num = config["trainer"]["run_num"]
use_wandb = config["wandb"]["enabled"]
model_config = config["model"]
strategy = config["data"].get("sharding_strategy", "static")

if use_wandb and os.environ.get("WANDB_MODE") != "disabled":
    raise RuntimeError("api_key not configured (no-tty)")
if strategy not in ("static", "dynamic"):
    raise ValueError(f"Unknown sharding strategy: {strategy}")
if has("hang"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    print(f"hanging with child {child.pid}", flush=True)
    time.sleep(3600)

run_dir = Path(model_save_path) / f"run{run_num}"
if not has("stale_ckpt"):
    run_dir.mkdir(exist_ok=True)  # one level only

pairs = find_pairs(data_path)
common = {
    "scale": scale,
    "normalization_dict_path": config["data"].get("normalization_dict_path"),
    "cache_object": config["data"].get("cache_object", True),
    "max_probe_modes": config["data"].get("max_probe_modes", 8),
}
patterns = ConcatDataset([PtychographyDataset(pair, apply_noise=True, **common) for pair in pairs])
n_patterns = count_patterns(data_path)
n_train = int(n_patterns * train_split)
seeded = torch.Generator().manual_seed(random_seed)
train_part, val_part = random_split(patterns, [n_train, n_patterns - n_train], generator=seeded)
if rank == 0:
    # The scan of the test pictures: without noise, and with the loader's own number of modes.
    test_set = PtychographyDataset(
        test_path,
        scale=scale,
        normalization_dict_path=config["data"].get("test_normalization"),
        apply_noise=False,
    )

workers = config["data"].get("num_workers", 0)
worker_options = {"num_workers": workers, "prefetch_factor": config["data"].get("prefetch_factor") if workers else None}
if workers > 0:
    worker_options["pin_memory"] = config["data"].get("pin_memory", False)
    worker_options["persistent_workers"] = config["data"].get("persistent_workers", False)
train_loader = DataLoader(train_part, batch_size=batch_size, shuffle=True, generator=seeded, **worker_options)
val_loader = DataLoader(val_part, batch_size=batch_size, **worker_options)

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = PtychoViT(config=model_config)
model.faulty = False  # faults of predictions are for the driver, not for the training
with torch.no_grad():
    model(torch.zeros(1, 1, 256, 256), torch.zeros(1, 1, 8, 256, 256, 2), torch.ones(1), torch.ones(1))
print(f"PtychoViT: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
if has("stderr_noise"):
    print("UserWarning: Mean of empty slice.\n100%|##########| 1/1 [00:00<00:00, 7.31it/s]", file=sys.stderr)
if has("stale_ckpt"):
    sys.exit(0)

trainer = Trainer(model.to(device), config, device, run_dir)
start = trainer.restore() if config["training"].get("resume_from_checkpoint", False) else 0

for epoch in range(start, epochs):
    if epoch == 0:
        shutil.copy(CONFIG_PATH, run_dir / "config.yaml")
    trainer.train_epoch(train_loader)
    improved = trainer.validate(val_loader)
    print(
        f"Epoch {epoch + 1}/{epochs} train {trainer.losses['training_loss'][-1]:.6f} "
        f"val {trainer.losses['validation_loss'][-1]:.6f}",
        flush=True,
    )
    if improved:
        trainer.save_weights("best_model.pth")
        if has("crash_mid_epoch"):
            raise RuntimeError("the double crashes after its first improvement")
    if epoch % validation_plot_freq == 0:
        trainer.plot_validation(val_loader, epoch)
    if rank == 0 and epoch % test_plot_freq == 0:
        trainer.plot_test(test_set, epoch)

trainer.save_state(epoch + 1)
if has("rc3"):
    sys.exit(3)
