// Makes one synthetic scan, from nothing or from the object and probe of a base file.
process SIMULATE {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(entry), path(base, stageAs: 'base/*')
    val code_rev

    output:
    tuple val(meta), path('scan.npz'), emit: scan
    tuple val(meta), path('manifest.json'), path('preview.png'), emit: record

    script:
    def base_flag = base ? "--base ${base}" : ''
    """
    ptychoflow simulate --entry '${entry}' ${base_flag} --code-rev ${code_rev}
    """

    stub:
    """
    touch scan.npz preview.png
    echo '{"schema_version": 1}' > manifest.json
    """
}
