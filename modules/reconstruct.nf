// Runs a trained network over the test scan and stitches its patches, as one stream: patches never go to disk.
process RECONSTRUCT {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_gpu'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(model, stageAs: 'model/*'), path(test_scan, stageAs: 'test/*'), path(view, stageAs: 'view/*')
    val device
    val code_rev

    // Each a list of one file at most: a failed stage leaves none, a short one no snapshots, and a tuple that is optional
    // as a whole would be lost with any of them.
    output:
    tuple val(meta), path('recon.npz', arity: '0..*'), path('patch_metrics.json', arity: '0..*'),
        path('snapshots.npz', arity: '0..*'), emit: recon
    tuple val(meta), path('status.json'), emit: status
    tuple val(meta), path('manifest.json'), emit: manifest
    tuple val(meta), path('tmp/torch_reassembly/reassembly_test.npz'), emit: reassembly, optional: true

    script:
    """
    ptychoflow reconstruct --run '${run}' --model ${model} --test-scan ${test_scan} \\
        --view ${view} --device ${device} --attempt ${task.attempt} --code-rev ${code_rev}
    """

    stub:
    def reassembly = run.contains('"keep_reassembly":true') ? 'tmp/torch_reassembly/reassembly_test.npz' : ''
    """
    mkdir -p tmp/torch_reassembly
    touch recon.npz snapshots.npz ${reassembly}
    echo '{"schema_version": 1}' > patch_metrics.json
    echo '{"schema_version": 1, "run_id": "${meta.id}", "stage": "reconstruct", "state": "ok", "reason": null}' > status.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
