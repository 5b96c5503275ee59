// Writes the pairs of HDF5 files that the external model reads: the train or the test frames of one view, one pair an object.
process EXPORT_PAIR {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), path(scan, stageAs: 'scan/*'), path(view, stageAs: 'view/*')
    val code_rev

    output:
    tuple val(meta), path('pairs'), emit: pairs
    tuple val(meta), path('pairs/manifest.json'), emit: manifest

    script:
    """
    ptychoflow export-pair --scan ${scan} --view ${view} --part ${meta.part} --name ${meta.dataset}_${meta.part} --out pairs \\
        --code-rev ${code_rev}
    """

    stub:
    """
    mkdir pairs
    touch pairs/${meta.dataset}_${meta.part}_{dp,para}.hdf5
    echo '{"schema_version": 1}' > pairs/manifest.json
    """
}
