// Runs a trained network over the test scan and stitches its patches, as one stream: patches never go to disk.
process RECONSTRUCT {
    tag "${meta.id}"
    label 'process_gpu'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(model), path(test_scan, stageAs: 'test/*'), path(view)
    val device
    val code_rev

    output:
    tuple val(meta), path('recon.npz'), path('patch_metrics.json'), emit: recon, optional: true
    tuple val(meta), path('status.json'), emit: status
    tuple val(meta), path('manifest.json'), emit: manifest

    script:
    """
    ptychoflow reconstruct --run '${run}' --model ${model} --test-scan ${test_scan} \\
        --view ${view} --device ${device} --attempt ${task.attempt} --code-rev ${code_rev}
    """

    stub:
    """
    touch recon.npz
    echo '{"schema_version": 1}' > patch_metrics.json
    echo '{"schema_version": 1, "run_id": "${meta.id}", "stage": "reconstruct", "state": "ok", "reason": null}' > status.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
