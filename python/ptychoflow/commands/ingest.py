"""INGEST: a scan file from outside -> scan.npz, manifest.json, preview.png."""

from dataclasses import asdict, replace
from pathlib import Path

from ptychoflow.config import IngestConfig
from ptychoflow.data.formats import frame_flags
from ptychoflow.data.ingest import ingest_file
from ptychoflow.data.storage import save_scan
from ptychoflow.provenance import write_manifest


def run(config: IngestConfig, *, dataset_id: str, scan: Path, out_dir: Path) -> None:
    """Check and convert one scan, and write `scan.npz`, `preview.png` and `manifest.json` into `out_dir`.

    Args:
        config: what the caller states about the file.
        dataset_id: name of the data set, stored with the scan.
        scan: the file to read.
        out_dir: folder of the outputs.

    Raises:
        ContractError: the file is refused; nothing is written then.
    """
    from ptychoflow.report.previews import scan_preview

    ingested, transformations = ingest_file(scan, config)
    ingested = replace(ingested, metadata={**ingested.metadata, "dataset": dataset_id})
    save_scan(out_dir / "scan.npz", ingested, extra=frame_flags(scan, ingested.n_frames))
    scan_preview(ingested, out_dir / "preview.png")
    write_manifest(
        out_dir,
        command="ingest",
        inputs={"scan": scan},
        outputs=["scan.npz", "preview.png"],
        parameters={"dataset": dataset_id, **asdict(config)},
        facts={
            "n_frames": ingested.n_frames,
            "n": ingested.n,
            "dose_measured_mean": ingested.metadata["dose_measured_mean"],
            "transformations": transformations,
            "mapping": ingested.metadata["ingest"]["mapping"],
        },
    )
