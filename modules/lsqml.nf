// Reconstructs the test scan iteratively (pty-chi LSQML): a probe and no truth as start.
process LSQML {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_gpu'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(test_scan, stageAs: 'test/*'), path(view, stageAs: 'view/*')
    val device
    val code_rev

    // Each a list of one file at most: a failed stage leaves none, a short one no snapshots, and a tuple that is optional
    // as a whole would be lost with any of them.
    output:
    tuple val(meta), path('recon.npz', arity: '0..*'), path('snapshots.npz', arity: '0..*'), emit: recon
    tuple val(meta), path('history.csv'), emit: history, optional: true
    tuple val(meta), path('status.json'), emit: status
    tuple val(meta), path('manifest.json'), emit: manifest

    script:
    """
    ptychoflow lsqml --run '${run}' --test-scan ${test_scan} --view ${view} --device ${device} \\
        --attempt ${task.attempt} --code-rev ${code_rev}
    """

    stub:
    """
    touch recon.npz snapshots.npz
    echo 'epoch,loss' > history.csv
    echo '{"schema_version": 1, "run_id": "${meta.id}", "stage": "lsqml", "state": "ok", "reason": null}' > status.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
