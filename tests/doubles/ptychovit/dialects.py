"""The files of a double, by dialect: family P as it lies in `checkout/`, the later families as edits of it.

P keeps no branch for a later family: a bridge recognises families by the text of the files. What the reference page leaves open
of L and F is made up here (marked so); the bridge refuses both, so nothing rests on it.
"""

import re
from pathlib import Path

PACKAGE = "ptycho_fm"
"""Folder of family F, a package with console scripts."""

MODULES = ("custom_loss", "data", "inference", "main", "model", "prefetcher", "switches", "training", "utils")
"""What family F imports from its package and the others from the top of the tree."""

KEY_BY_PATH = (
    "data.py",
    "        return self.object_name\n",
    # Made up: relative to the folder of the dictionary.
    "        relative = self.dp_path.resolve().relative_to(Path(path).resolve().parent)\n"
    "        return str(relative.with_name(self.object_name))\n",
)

EDITS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "P": (),
    "P-noprefetch": (
        ("config.yaml", "  use_cuda_prefetcher: true\n", ""),
        ("training.py", "from prefetcher import CUDAPrefetcher\n", ""),
        (
            "training.py",
            '        self.use_prefetcher = config["data"].get("use_cuda_prefetcher", False)\n',
            "",
        ),
        (
            "training.py",
            '        """Yield the loader\'s batches; without the prefetcher the targets stay where they are."""\n'
            "        if self.use_prefetcher:\n"
            "            yield from CUDAPrefetcher(loader, self.device)\n"
            "            return\n"
            "        for amplitude, amp, phase, *rest in loader:\n"
            "            yield amplitude.to(self.device), amp, phase, *(tensor.to(self.device) for tensor in rest)\n",
            '        """Yield the loader\'s batches on the device."""\n'
            "        for batch in loader:\n"
            "            yield [tensor.to(self.device) for tensor in batch]\n",
        ),
    ),
    "L": (
        KEY_BY_PATH,
        ("main.py", 'CONFIG_PATH = Path("config.yaml")\n', ""),
        (
            "main.py",
            "options = parser.parse_args()\n",
            'parser.add_argument("--config", default="config.yaml")\noptions = parser.parse_args()\n'
            "CONFIG_PATH = Path(__file__).parent / options.config\n",
        ),
        ("main.py", "apply_noise=True", 'apply_noise=config["data"].get("apply_noise", True)'),
        (
            "main.py",
            "    if epoch % validation_plot_freq == 0:\n",
            '    if (epoch + 1) % config["training"].get("checkpoint_freq", epochs) == 0:\n'
            '        trainer.save_weights(f"model_epoch_{epoch + 1:03d}.pth")\n'
            "    if epoch % validation_plot_freq == 0:\n",
        ),
        (
            "config.yaml",
            "  validation_plot_freq: 10\n",
            "  checkpoint_freq: 10\n  validation_plot_freq: 10\n",
        ),
        ("config.yaml", "  random_seed: 42\n", "  random_seed: 42\n  apply_noise: true\n"),
        (
            "data.py",
            "    return offsets_m / pixel_m + np.array([origin(n) for n in shape])\n",
            "    offsets = offsets_m / pixel_m\n"
            "    box_centre = (offsets.min(axis=0) + offsets.max(axis=0)) / 2\n"
            "    return offsets - box_centre + (np.array(shape) - 1) / 2\n",
        ),
        (
            "data.py",
            "def origin(n):\n"
            '    """Return the pixel that position 0 means on an axis of n pixels: half-even rounding, then half a pixel."""\n'
            "    return round(n / 2) + 0.5\n\n\n",
            "",
        ),
    ),
    "F": (
        KEY_BY_PATH,
        ("main.py", 'CONFIG_PATH = Path("config.yaml")\n', ""),
        (
            "main.py",
            "options = parser.parse_args()\n",
            'parser.add_argument("--config", default="config.yaml")\noptions = parser.parse_args()\n'
            "CONFIG_PATH = Path(options.config)\n",
        ),
        (
            "data.py",
            "    return offsets_m / pixel_m +",
            # Made up: metres where they are small, pixels at pixel size 1, else micrometres.
            "    if pixel_m != 1.0 and np.abs(offsets_m).max() > 1e-2:\n"
            "        offsets_m = offsets_m * 1e-6\n"
            "    return offsets_m / pixel_m +",
        ),
        ("switches.py", "Path(__file__).parent /", "Path(__file__).parents[1] /"),
        (
            "model/model.py",
            '        self.register_buffer("log_scale_amp", torch.tensor(math.log(0.025)))\n'
            '        self.register_buffer("log_scale_ph", torch.tensor(math.log(math.pi)))\n',
            '        self.register_buffer("amp_scale", torch.tensor(0.025))\n'
            '        self.register_buffer("ph_scale", torch.tensor(math.pi))\n'
            '        self.register_buffer("amp_offset", torch.tensor(AMPLITUDE_OFFSET))\n',
        ),
        (
            "model/model.py",
            "AMPLITUDE_OFFSET + torch.exp(self.log_scale_amp) * squashed",
            "self.amp_offset + self.amp_scale * squashed",
        ),
        ("model/model.py", "torch.exp(self.log_scale_ph) * squashed", "self.ph_scale * squashed"),
    ),
}
"""(file, text that stands in it exactly once, its replacement), per dialect."""


def tree(dialect: str) -> dict[str, str]:
    """Return the text of every file of a dialect by its POSIX path, without double.json."""
    root = Path(__file__).parent / "checkout"
    paths = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {path.relative_to(root).as_posix(): path.read_text() for path in paths}
    for name, old, new in EDITS[dialect]:
        if files[name].count(old) != 1:
            raise LookupError(f"dialect {dialect}: {name} holds {files[name].count(old)} times, not once: {old!r}")
        files[name] = files[name].replace(old, new)
    if dialect == "P-noprefetch":
        del files["prefetcher.py"]
    return _as_package(files) if dialect == "F" else files


def _as_package(files: dict[str, str]) -> dict[str, str]:
    """Return the tree with its modules moved into the package, and a pyproject.toml that names console scripts."""
    imports = re.compile(rf"^from ({'|'.join(MODULES)})\b", re.MULTILINE)
    moved = {
        f"{PACKAGE}/{name}" if name.endswith(".py") else name: imports.sub(rf"from {PACKAGE}.\1", text)
        for name, text in files.items()
    }
    project = f'[project]\nname = "{PACKAGE}"\nversion = "0"\n\n[project.scripts]\nptycho-fm-train = "{PACKAGE}.main"\n'
    return moved | {f"{PACKAGE}/__init__.py": "", "pyproject.toml": project}
