// Reads one measured scan, checks it against the contract and writes it in the house's own layout.
process INGEST {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(entry), path(raw, stageAs: 'raw/*')
    val code_rev

    output:
    tuple val(meta), path('scan.npz'), emit: scan
    tuple val(meta), path('manifest.json'), path('preview.png'), emit: record

    script:
    """
    ptychoflow ingest --entry '${entry}' --scan ${raw} --code-rev ${code_rev}
    """

    stub:
    """
    touch scan.npz preview.png
    echo '{"schema_version": 1}' > manifest.json
    """
}
