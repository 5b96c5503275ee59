"""`ptychoflow export-pair` and `ptychovit validate` from scan to verdict; the contract itself: test_ptychovit_validate."""

import h5py
import pytest

from ptychoflow.commands import export_pair, ptychovit_validate, simulate
from ptychoflow.config import SimulateConfig
from ptychoflow.errors import ContractError


@pytest.fixture
def pair(tmp_path):
    """A pair made from a simulated scan of a non-square object."""
    config = SimulateConfig(n=256, size=320, size_cols=340, step_px=32, phase="independent", dose="1e6")
    (tmp_path / "scan").mkdir()
    simulate.run(config, dataset_id="star", base=None, out_dir=tmp_path / "scan")
    export_pair.run(
        scan=tmp_path / "scan" / "scan.npz", view=None, object_file=None, name="star", out_dir=tmp_path / "pair"
    )
    return tmp_path / "pair"


def test_a_simulated_scan_becomes_a_valid_pair(pair):
    assert ptychovit_validate.run(pair, training=True) == "pair: valid"


def test_every_violation_is_named_at_once(pair):
    with h5py.File(pair / "star_para.hdf5", "r+") as file:
        file["probe_position_x_m"][0] = float("nan")
        del file["object"].attrs["pixel_height_m"]
    with pytest.raises(ContractError, match=r"(?s)PV-ATTR.*PV-POSNAN|PV-POSNAN.*PV-ATTR") as caught:
        ptychovit_validate.run(pair, training=False)
    assert caught.value.exit_code == 65
