// Puts all runs of one condition that arrived side by side. Reconstructions, metrics and curves come in one order, by run_id; scans and
// views in another one, one of each for every N.
process COMPARE {
    tag "${meta.id}"
    ext ids: { meta }
    label 'process_low'
    label 'isolated_arm'

    input:
    tuple val(meta), val(condition), path(recons, stageAs: 'recons/?/*'), path(metrics, stageAs: 'metrics/?/*'),
        path(curves, stageAs: 'curves/?/*'), path(test_scans, stageAs: 'test/?/*'), path(views, stageAs: 'view/?/*')
    val code_rev

    output:
    tuple val(meta), path('visuals/comparison.json'), path('visuals/*.png'), emit: visuals
    tuple val(meta), path('gt_recon.npz'), emit: truth, optional: true
    tuple val(meta), path('metrics_by_model.json'), path('reconstructions_aligned.npz'), path('*_frc.csv'), path('manifest.json'), emit: tables

    script:
    def inputs = ['test-scan': test_scans, view: views, recons: recons, metrics: metrics, curves: curves]
    def flags = inputs.collectMany { name, paths -> [paths].flatten().collect { path -> "--${name} ${path}" } }
    """
    ptychoflow compare-condition --condition '${condition}' --code-rev ${code_rev} ${flags.join(' ')}
    """

    stub:
    """
    mkdir visuals
    touch reconstructions_aligned.npz gt_recon.npz
    touch visuals/{compare_amp_phase,frc_curves,quality_time,blink_truth_amp,blink_truth_phase}.png
    for label in \$(grep -ho '"label": "[^"]*"' metrics/*/metrics.json | cut -d'"' -f4 | sort -u); do
        touch "\${label}_frc.csv" visuals/{amp_phase,amp_phase_error}_"\${label}.png" visuals/blink_"\${label}"_{amp,phase}.png
    done
    echo '{"schema_version": 1, "condition": "${meta.id}"}' > visuals/comparison.json
    echo '{}' > metrics_by_model.json
    echo '{"schema_version": 1}' > manifest.json
    """
}
