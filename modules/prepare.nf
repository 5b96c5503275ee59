// Splits, chooses and groups one condition's scans at one gridsize: indices, never copies. No view when the data cannot give it.
process PREPARE {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(entry), path(train_scan, stageAs: 'train/*'), path(test_scan, stageAs: 'test/*')
    val code_rev

    output:
    tuple val(meta), path('view.npz'), emit: view, optional: true
    tuple val(meta), path('status.json'), emit: status
    tuple val(meta), path('manifest.json'), emit: manifest
    tuple val(meta), path('preview.png'), emit: preview, optional: true
    tuple val(meta), path('{train,test}_{spacing,metrics}.json'), path('metrics_bundle.json'), emit: overlap, optional: true

    script:
    """
    ptychoflow prepare --view-entry '${entry}' --train-scan ${train_scan} --test-scan ${test_scan} --code-rev ${code_rev}
    """

    stub:
    """
    touch view.npz preview.png
    for name in train_spacing test_spacing train_metrics test_metrics metrics_bundle; do
        echo '{}' > "\${name}.json"
    done
    echo '{"schema_version": 1, "run_id": "${meta.id}", "stage": "prepare", "state": "ok", "reason": null}' > status.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
