// Accounts for every planned run, and writes tables and report from whatever arrived: nothing may have.
// Files say inside whose they are; histories cannot, and get the names of their runs.
process COLLECT {
    label 'process_low'

    input:
    path plan
    path statuses, stageAs: 'statuses/?/*'
    path metrics, stageAs: 'scored/?/*'
    path comparisons, stageAs: 'comparisons/?/*'
    tuple val(history_ids), path(curves, stageAs: 'curves/?/*')
    path manifests, stageAs: 'manifests/?/*'
    path bundles, stageAs: 'bundles/?/*'
    val given
    path loss_reference, stageAs: 'loss_reference/*'
    val loss_tolerance
    val min_success
    val code_rev

    output:
    path 'run_status.tsv', emit: table
    path '{metrics,statistics,comparisons}.csv', emit: scores
    path '{scans,views,models,recons}.csv', emit: sheets, optional: true
    path 'versions.yml', emit: versions
    path 'summary.md', emit: summary
    path 'report.html', emit: report
    path '{run_manifest,training_manifest,skip_summary,comparison_manifest}.json', emit: study
    path 'metrics', emit: overlap, optional: true
    path 'study/*.png', emit: curves, optional: true
    path 'loss_check.json', emit: loss_check, optional: true
    path 'manifest.json', emit: manifest

    script:
    def inputs = [
        'statuses': statuses, 'metrics': metrics, 'comparisons': comparisons, 'manifests': manifests,
        'bundles': bundles, 'loss-reference': loss_reference,
    ]
    def flags = inputs.collectMany { name, paths -> [paths].flatten().collect { path -> "--${name} ${path}" } }
    def histories = history_ids.collect { id -> "histories/${id}.csv" }
    def links = [[curves].flatten(), histories].transpose().collect { source, name -> "ln -s ../${source} ${name}" }
    def history_flags = histories.collect { name -> "--histories ${name}" }
    """
    mkdir histories
    ${links.join('\n    ')}
    ptychoflow collect --plan ${plan} --min-success ${min_success} --loss-tolerance ${loss_tolerance} --code-rev ${code_rev} \\
        --given '${given}' ${(flags + history_flags).join(' ')}
    """

    // A run is ok when its metrics arrived; the stub's plan has one dose and the view of all frames. Sheets are those of the
    // stages behind the one that the plan begins with.
    stub:
    def loss_check = loss_reference ? "echo '{\"schema_version\": 1, \"passed\": true}' > loss_check.json" : ''
    """
    printf 'run_id\\tstate\\treason\\n' > run_status.tsv
    for id in \$(grep -o '"run_id": "[^"]*"' ${plan} | cut -d'"' -f4 | sort -u); do
        state=missing
        if grep -qs "\\"\$id\\"" scored/*/metrics.json; then state=ok; fi
        printf '%s\\t%s\\t\\n' "\$id" "\$state" >> run_status.tsv
    done
    echo 'run_id' | tee metrics.csv statistics.csv comparisons.csv > /dev/null
    case "\$(grep -o '"from": "[a-z]*"' ${plan})" in
        *prepare*) first=2 ;;
        *train*) first=3 ;;
        *recon*) first=4 ;;
        *evaluate*) first=5 ;;
        *) first=1 ;;
    esac
    for name in \$(printf '%s.csv ' scans views models recons | cut -d' ' -f"\$first-"); do
        echo 'stub' > "\$name"
    done
    echo 'processes: {}' > versions.yml
    echo '# stub' > summary.md
    for name in manifest run_manifest training_manifest skip_summary comparison_manifest; do
        echo '{"schema_version": 1}' > "\$name.json"
    done
    ${loss_check}
    if compgen -G 'bundles/*/*' > /dev/null; then
        mkdir -p metrics/dose_1000000000
        echo '{}' > metrics/dose_1000000000/all_gs1.json
    fi
    echo '<!doctype html><title>stub</title>' > report.html
    """
}
