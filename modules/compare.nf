// Puts all runs of one condition that arrived side by side. Reconstructions and metrics come in the same order, by run_id.
process COMPARE {
    tag "${meta.id}"
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(condition), path(recons, stageAs: 'recons/?/*'), path(metrics, stageAs: 'metrics/?/*'),
        path(test_scan, stageAs: 'test/*'), path(view)
    val code_rev

    output:
    tuple val(meta), path('compare_amp_phase.png'), emit: picture
    tuple val(meta), path('reference_metrics.json'), emit: reference, optional: true
    tuple val(meta), path('gt_recon.npz'), emit: truth, optional: true
    tuple val(meta), path('metrics_by_model.json'), path('reconstructions_aligned.npz'), path('manifest.json'), emit: tables

    script:
    def recon_flags = [recons].flatten().collect { path -> "--recons ${path}" }.join(' ')
    def metric_flags = [metrics].flatten().collect { path -> "--metrics ${path}" }.join(' ')
    """
    ptychoflow compare --condition '${condition}' --test-scan ${test_scan} --view ${view} --code-rev ${code_rev} \\
        ${recon_flags} ${metric_flags}
    """

    stub:
    """
    touch compare_amp_phase.png reconstructions_aligned.npz gt_recon.npz
    echo '{}' > metrics_by_model.json
    echo '{"schema_version": 1, "condition": "${meta.id}"}' > reference_metrics.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
