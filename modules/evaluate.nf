// Scores one reconstruction against truth or reference and against held-out frames.
process EVALUATE {
    tag "${meta.id}"
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(run), path(recon), path(patch_metrics), path(test_scan, stageAs: 'test/*'), path(view)
    val code_rev

    output:
    tuple val(meta), path('metrics.json'), emit: metrics
    tuple val(meta), path('amp_phase.png'), emit: picture
    tuple val(meta), path('frc.csv'), emit: curves
    tuple val(meta), path('manifest.json'), emit: manifest

    script:
    def patch_flag = patch_metrics ? "--patch-metrics ${patch_metrics}" : ''
    """
    ptychoflow evaluate --run '${run}' --recon ${recon} --test-scan ${test_scan} --view ${view} ${patch_flag} \\
        --code-rev ${code_rev}
    """

    stub:
    """
    echo '{"schema_version": 1, "run_id": "${meta.id}", "condition": "${meta.condition}"}' > metrics.json
    echo 'frequency,frc' > frc.csv
    touch amp_phase.png
    echo '{"schema_version": 1}' > manifest.json
    """
}
