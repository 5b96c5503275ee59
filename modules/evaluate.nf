// Scores one reconstruction against truth or reference and against held-out frames. `others` are views of the condition's scans of
// another N, if it has any: all are scored on what all of them cover.
process EVALUATE {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(recon, stageAs: 'recon/*'), path(patch_metrics), path(snapshots),
        path(test_scan, stageAs: 'test/*'), path(view, stageAs: 'view/*'), path(others, stageAs: 'others/?/*')
    val code_rev

    output:
    tuple val(meta), path('metrics.json'), emit: metrics
    tuple val(meta), path('amp_phase.png'), emit: picture
    tuple val(meta), path('frc.csv'), emit: curves
    tuple val(meta), path('manifest.json'), emit: manifest

    script:
    def patch_flag = patch_metrics ? "--patch-metrics ${patch_metrics}" : ''
    def snapshots_flag = snapshots ? "--snapshots ${snapshots}" : ''
    def other_flags = [others].flatten().collect { path -> "--other-views ${path}" }
    """
    ptychoflow evaluate --run '${run}' --recon ${recon} --test-scan ${test_scan} --view ${view} \\
        ${([patch_flag, snapshots_flag] + other_flags).findAll { flag -> flag }.join(' ')} --code-rev ${code_rev}
    """

    stub:
    """
    echo '{"schema_version": 1, "run_id": "${meta.id}", "condition": "${meta.condition}", "label": "${meta.label}"}' > metrics.json
    echo 'seed,object,part,frequency_nyquist,frc,n_samples' > frc.csv
    touch amp_phase.png
    echo '{"schema_version": 1}' > manifest.json
    """
}
